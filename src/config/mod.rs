//! Configuration: file < environment < flags. Each program and module owns its own sections; here is how they are read.
//!
//! ```text
//!  node.toml ──┐
//!  TRISHULA_*  ├─▶ layers: one spanned table ──▶ serde ──▶ T
//!  flags ──────┘         └─ where each value came from ──▶ Error with file, line, column, or variable
//! ```
//!
//! | file | what is in it |
//! |---|---|
//! | [`node`] | the whole of `node.toml` |
//! | [`limits`] | `[limits]` of `node.toml` |
//! | [`log`] | `[log]`, in both programs' files |
//! | [`address`] | `HOST:PORT` as people write it |
//!
//! A layer is a TOML text of its own. All of them lie one behind the other in one imaginary document, so that the
//! place of every error says which layer it is in.

pub mod address;
mod error;
mod layers;
pub mod limits;
pub mod log;
pub mod node;
mod sections;
mod suggest;

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

pub use error::Error;
use layers::{Layers, Origin};

/// How the variables begin that are read: `TRISHULA_<SECTION>_<KEY>`.
pub const ENV_PREFIX: &str = "TRISHULA_";

/// Reads a configuration. `environment` is usually [`std::env::vars`]; of it only variables that begin with
/// `TRISHULA_` and the name of one of `T`'s sections are looked at. `overrides` are flags: a dotted key and its value.
///
/// A value in the environment is read as TOML (`5`, `true`, `["a", "b"]`), and as a string when it is not, or when a
/// string is wanted.
///
/// # Errors
///
/// The first fault, with the file, line and column or the variable it is in, what is allowed, and what to do.
pub fn load<T: DeserializeOwned>(
    path: &Path,
    environment: impl Iterator<Item = (String, String)>,
    overrides: Vec<(String, toml::Value)>,
) -> Result<T, Error> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::unreadable(path, &e))?;
    load_text(path, text, environment, overrides)
}

/// The same, of a text that was read already; `path` is for the errors.
pub fn load_text<T: DeserializeOwned>(
    path: &Path,
    text: String,
    environment: impl Iterator<Item = (String, String)>,
    overrides: Vec<(String, toml::Value)>,
) -> Result<T, Error> {
    let mut layers = Layers::new(path, text);
    let sections = sections::of::<T>();
    // Sorted, so that the same environment has the same first fault.
    let mut variables: Vec<(String, String)> = environment.collect();
    variables.sort();
    for (variable, value) in variables {
        if let Some(key) = sections::key_of(&variable, sections) {
            layers.push(Origin::Variable(variable), &key, value)?;
        }
    }
    for (key, value) in overrides {
        layers.push(Origin::Flag(key.clone()), &key, value.to_string())?;
    }
    layers.read()
}

/// A relative path in a configuration counts from the folder of its file, so that a bundle can be moved as a whole.
pub fn resolve(file: &Path, path: &mut PathBuf) {
    if path.is_relative() {
        let folder = file.parent().unwrap_or(Path::new(""));
        *path = folder.join(&*path);
    }
}

#[cfg(test)]
mod tests;
