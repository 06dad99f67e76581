//! The policy to try: the very object that is applied.
//!
//! A file comes in; a ProbePolicy that `kubectl apply` would take, and what it means to core, go out. What the API
//! server would refuse is refused here in its words, with the place in the file: unknown fields, the CRD's schema
//! ([`schema`]) and its rules ([`rules`]); at last the conversion that the operator does.

mod places;
mod rules;
mod schema;

use std::{
    fmt, fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use ip_sentry_core::{
    detect::policy::Policy,
    net::{Network, NetworkError},
};
use ip_sentry_crd::{GROUP, ProbePolicy, ProtectedNetworks, VERSION, convert};
use serde::de::{Deserialize as _, DeserializeOwned};
use serde_json::Value;

use self::{
    places::{Place, Places},
    schema::Problem,
};
use crate::input;

/// The longest file that is read, in bytes: etcd takes no object of half that.
const MAX_BYTES: u64 = 3 << 20;

/// A policy that can be used.
#[derive(Debug)]
pub struct PolicyFile {
    /// The object, with the API server's defaults.
    pub object: ProbePolicy,
    /// What it means.
    pub policy: Policy,
}

/// Why a file holds no object that can be used. Each message begins with the file, and where it is known the line and
/// the column.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ObjectFileError {
    /// It can't be read.
    #[error("{}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// It is no YAML and no JSON.
    #[error("{at}: error converting YAML to JSON: {message}")]
    Syntax {
        /// Where.
        at: At,
        /// What the parser says.
        message: String,
    },
    /// It holds nothing of the kind.
    #[error("{} holds no {kind}: it has to be written as it is applied, with apiVersion and kind", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The kind that is looked for.
        kind: &'static str,
    },
    /// It holds several of the kind, or none of the name.
    #[error("{} holds the {kind} {}: name one of them with --policy-name", path.display(), names.join(", "))]
    Choice {
        /// The file.
        path: PathBuf,
        /// The kind that is looked for.
        kind: &'static str,
        /// The names of those that are there.
        names: Vec<String>,
    },
    /// Of a version that there is not.
    #[error("{at}: no matches for kind \"{kind}\" in version \"{version}\": write {GROUP}/{VERSION}")]
    Version {
        /// Where.
        at: At,
        /// The kind that is looked for.
        kind: &'static str,
        /// The version that is written.
        version: String,
    },
    /// It has fields that the kind has not.
    #[error(
        "{at}: {kind} in version \"{VERSION}\" cannot be handled as a {kind}: strict decoding error: {}",
        unknown.iter().map(|field| format!("unknown field \"{field}\"")).collect::<Vec<_>>().join(", ")
    )]
    UnknownFields {
        /// Where the first stands.
        at: At,
        /// The kind that is looked for.
        kind: &'static str,
        /// The fields' paths.
        unknown: Vec<String>,
    },
    /// It breaks the kind's rules.
    #[error("{0}")]
    Invalid(Invalid),
}

/// A place in a file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct At {
    path: PathBuf,
    place: Option<Place>,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        self.place.map_or(Ok(()), |Place { line, column }| write!(f, ":{line}:{column}"))
    }
}

/// An object that breaks its kind's rules, in the API server's words.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Invalid {
    kind: &'static str,
    name: String,
    problems: Vec<(At, Problem)>,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, name, problems } = self;
        if let [(at, Problem { path, text })] = problems.as_slice() {
            return write!(f, "{at}: The {kind} \"{name}\" is invalid: {path}: {text}");
        }
        write!(f, "The {kind} \"{name}\" is invalid:")?;
        for (at, Problem { path, text }) in problems {
            write!(f, "\n* {at}: {path}: {text}")?;
        }
        Ok(())
    }
}

/// Reads and checks the policy of a file: the only one in it, or the one of that name.
pub fn load(path: &Path, name: Option<&str>) -> Result<PolicyFile, ObjectFileError> {
    let found = find(path, "ProbePolicy", name)?;
    let object: ProbePolicy = found.checked()?;
    let policy = convert::policy(&object.spec).map_err(|error| {
        // Every message begins with the field.
        let text = error.to_string();
        let (field, why) = text.split_once([' ', ':']).unwrap_or(("spec", &text));
        let value = lookup(&found.object, field).filter(|value| !value.is_object() && !value.is_array());
        let value = value.map_or_else(String::new, |value| format!("{value}: "));
        found.invalid(vec![Problem::new(field, format!("Invalid value: {value}{}", why.trim_start()))])
    })?;
    Ok(PolicyFile { object, policy })
}

/// The networks that a file's ProtectedNetworks protects, those that the operator found too; none without a file.
pub fn protected(path: Option<&Path>) -> Result<Vec<Network>, ObjectFileError> {
    let Some(path) = path else { return Ok(Vec::new()) };
    let found = find(path, "ProtectedNetworks", None)?;
    let object: ProtectedNetworks = found.checked()?;
    let status = object.status.map(|status| status.cidrs).unwrap_or_default();
    let lists = [("spec.cidrs", object.spec.cidrs), ("status.cidrs", status)];
    let parse = |(list, index, text): (&str, usize, String)| {
        text.parse().map_err(|error: NetworkError| {
            let why = format!("Invalid value: {text:?}: {error}");
            found.invalid(vec![Problem::new(&format!("{list}[{index}]"), why)])
        })
    };
    let each = lists.into_iter().flat_map(|(list, texts)| {
        texts.into_iter().enumerate().map(move |(index, text)| (list, index, text))
    });
    each.map(parse).collect()
}

/// An object of a file.
struct Found {
    file: PathBuf,
    kind: &'static str,
    object: Value,
    places: Places,
    /// The object's own path in its document, as in `items[0].`.
    prefix: String,
}

impl Found {
    /// The object as the API server would keep it.
    fn checked<T: DeserializeOwned>(&self) -> Result<T, ObjectFileError> {
        let mut object = self.object.clone();
        let version = object["apiVersion"].as_str().unwrap_or_default();
        if version != format!("{GROUP}/{VERSION}") {
            let at = self.at(self.places.value(&self.path("apiVersion")));
            return Err(ObjectFileError::Version { at, kind: self.kind, version: version.to_owned() });
        }
        let schema = &schema::of(self.kind);
        let mut unknown = Vec::new();
        for (name, field) in object.as_object().into_iter().flatten() {
            match name.as_str() {
                "apiVersion" | "kind" | "metadata" | "status" => {}
                name => match schema["properties"].get(name) {
                    Some(known) => schema::unknown_fields(known, field, name, &mut unknown),
                    None => unknown.push(name.to_owned()),
                },
            }
        }
        if let Some(first) = unknown.first() {
            let at = self.at(self.places.key(&self.path(first)));
            return Err(ObjectFileError::UnknownFields { at, kind: self.kind, unknown });
        }
        let mut problems = Vec::new();
        if object["metadata"]["name"].as_str().unwrap_or_default().is_empty() {
            let text = "Required value: name or generateName is required";
            problems.push(Problem::new("metadata.name", text));
        }
        schema::fill_in(schema, &mut object);
        schema::check(schema, &object, "", &mut problems);
        if problems.is_empty() {
            rules::check(schema, &object, "", &mut problems);
        }
        if !problems.is_empty() {
            return Err(self.invalid(problems));
        }
        serde_json::from_value(object)
            .map_err(|error| self.invalid(vec![Problem::new("spec", format!("Invalid value: {error}"))]))
    }

    fn invalid(&self, problems: Vec<Problem>) -> ObjectFileError {
        let at = |problem: &Problem| self.at(self.places.value(&self.path(&problem.path)));
        ObjectFileError::Invalid(Invalid {
            kind: self.kind,
            name: self.object["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
            problems: problems.into_iter().map(|problem| (at(&problem), problem)).collect(),
        })
    }

    fn at(&self, place: Option<Place>) -> At {
        At { path: self.file.clone(), place }
    }

    fn path(&self, field: &str) -> String {
        format!("{}{field}", self.prefix)
    }
}

/// Finds an object of a kind among a file's documents and lists.
fn find(path: &Path, kind: &'static str, name: Option<&str>) -> Result<Found, ObjectFileError> {
    let is_stdin = input::is_stdin(path);
    let text = read(path, is_stdin);
    // From here on it is only for messages.
    let path = if is_stdin { Path::new("standard input") } else { path };
    let text = text.map_err(|source| ObjectFileError::Read { path: path.to_owned(), source })?;
    let mut places = places::documents(&text);
    let mut candidates = Vec::new();
    for (index, document) in serde_yaml_ng::Deserializer::from_str(&text).enumerate() {
        let document = serde_yaml_ng::Value::deserialize(document)
            .and_then(|document| serde_json::to_value(document).map_err(serde::de::Error::custom))
            .map_err(|error| syntax(path, &error))?;
        let places = places.get_mut(index).map(std::mem::take).unwrap_or_default();
        let is_list = document["kind"].as_str().is_some_and(|kind| kind.ends_with("List"));
        let objects = match document["items"].as_array() {
            Some(items) if is_list => {
                let prefixed = |(index, item): (usize, &Value)| (format!("items[{index}]."), item.clone());
                items.iter().enumerate().map(prefixed).collect()
            }
            _ => vec![(String::new(), document)],
        };
        candidates.extend(objects.into_iter().filter(|(_, object)| object["kind"] == kind).map(
            |(prefix, object)| Found { file: path.to_owned(), kind, object, places: places.clone(), prefix },
        ));
    }
    let name_of = |found: &Found| found.object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let names: Vec<String> = candidates.iter().map(name_of).collect();
    if names.is_empty() {
        return Err(ObjectFileError::Missing { path: path.to_owned(), kind });
    }
    candidates.retain(|found| name.is_none_or(|name| name_of(found) == name));
    match <[Found; 1]>::try_from(candidates) {
        Ok([found]) => Ok(found),
        Err(_) => Err(ObjectFileError::Choice { path: path.to_owned(), kind, names }),
    }
}

fn read(path: &Path, is_stdin: bool) -> io::Result<String> {
    let file: Box<dyn Read> = if is_stdin { Box::new(io::stdin()) } else { Box::new(fs::File::open(path)?) };
    let mut text = String::new();
    file.take(MAX_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(io::Error::other("more than 3 MiB: no object is as big"));
    }
    Ok(text)
}

fn syntax(path: &Path, error: &serde_yaml_ng::Error) -> ObjectFileError {
    let place = error.location().map(|place| Place { line: place.line(), column: place.column() });
    let text = error.to_string();
    let message = text.split_once(" at line ").map_or(text.as_str(), |(message, _)| message).to_owned();
    ObjectFileError::Syntax { at: At { path: path.to_owned(), place }, message }
}

/// The value at a path such as `spec.match.patterns[0]`.
fn lookup<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    path.split(['.', '[']).try_fold(object, |value, step| match step.strip_suffix(']') {
        Some(index) => value.get(index.parse::<usize>().ok()?),
        None => value.get(step),
    })
}

#[cfg(test)]
mod tests;
