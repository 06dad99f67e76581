//! The policy to try: the very object that is applied.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use ip_sentry_core::detect::policy::Policy;
use ip_sentry_crd::{
    ProbePolicy,
    convert::{self, ConvertError},
};

/// Why a file is no policy.
#[derive(Debug, thiserror::Error)]
pub enum PolicyFileError {
    /// It can't be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// It is no ProbePolicy.
    #[error("{path}: {source}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_yaml_ng::Error,
    },
    /// It is one that nobody could use.
    #[error("{path}: {source}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The field and what is wrong with it.
        source: ConvertError,
    },
}

/// A policy that can be used.
pub struct PolicyFile {
    /// The object.
    pub object: ProbePolicy,
    /// What it means.
    pub policy: Policy,
}

/// Reads and checks a policy.
pub fn load(path: &Path) -> Result<PolicyFile, PolicyFileError> {
    let text =
        fs::read_to_string(path).map_err(|source| PolicyFileError::Read { path: path.to_owned(), source })?;
    let object: ProbePolicy = serde_yaml_ng::from_str(&text)
        .map_err(|source| PolicyFileError::Syntax { path: path.to_owned(), source })?;
    let policy = convert::policy(&object.spec)
        .map_err(|source| PolicyFileError::Invalid { path: path.to_owned(), source })?;
    Ok(PolicyFile { object, policy })
}
