//! Writes the CRDs into the folder that is named: `crdgen deploy/kustomize/crds`.

use std::{env, fs, path::PathBuf, process::ExitCode};

use ip_sentry_crd::manifest;

fn main() -> ExitCode {
    let Some(folder) = env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: crdgen FOLDER");
        return ExitCode::from(2);
    };
    for (name, yaml) in manifest::files() {
        let path = folder.join(&name);
        if let Err(error) = fs::write(&path, yaml) {
            eprintln!("crdgen: {}: {error}", path.display());
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
