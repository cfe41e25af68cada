//! Secrets from the credential store of systemd (`LoadCredential=` of a unit): files of a folder that only the process sees, named by
//! the environment. From here on they are files like others, and read again when they change.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::service::ServiceSection;

/// Where systemd says the folder is.
const VARIABLE: &str = "CREDENTIALS_DIRECTORY";

/// Puts the files of a service's credentials in the place of their names.
///
/// # Errors
///
/// The key at fault, and why: the name is none, the secret is named in another way as well, there are no credentials, or not this one.
pub(super) fn find(
    section: &mut ServiceSection,
    environment: &BTreeMap<String, String>,
) -> Result<(), (&'static str, String)> {
    if let Some(name) = &section.secret_credential {
        if section.secret_file.is_some() || section.secret_env.is_some() {
            let why = "secret_file or secret_env is there too; give one of the three";
            return Err(("secret_credential", why.into()));
        }
        let found = path(name, environment).map_err(|why| ("secret_credential", why))?;
        section.secret_file = Some(found);
    }
    if let Some(name) = &section.key_credential {
        if section.key.is_some() {
            return Err(("key_credential", "key is there too; give one of the two".into()));
        }
        let found = path(name, environment).map_err(|why| ("key_credential", why))?;
        section.key = Some(found);
    }
    Ok(())
}

fn path(name: &str, environment: &BTreeMap<String, String>) -> Result<PathBuf, String> {
    if name.is_empty() || name.contains('/') || matches!(name, "." | "..") {
        return Err(format!(
            "{name:?} is no credential's name; give the one before the ':' of LoadCredential="
        ));
    }
    let Some(folder) = environment.get(VARIABLE).filter(|folder| !folder.is_empty()) else {
        return Err(format!(
            "${VARIABLE} is not set, so there are no credentials: let systemd start the edge, with \
             LoadCredential={name}:/path/of/the/file in its unit; or, for `check` by hand, set it to the folder \
             with the file {name}"
        ));
    };
    let path = Path::new(folder).join(name);
    if path.is_file() {
        return Ok(path);
    }
    Err(format!(
        "there is no credential {name} in {folder}; put LoadCredential={name}:/path/of/the/file into the unit"
    ))
}
