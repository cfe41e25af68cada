//! Files that must be whole or absent, and private where they hold a key.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::error::Error;
use super::secret;
use super::serial::hex;

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Its owner only: 0600.
    Private,
    /// Everybody: 0644.
    Public,
}

impl Access {
    #[cfg(unix)]
    fn mode(self) -> u32 {
        match self {
            Self::Private => 0o600,
            Self::Public => 0o644,
        }
    }
}

/// Writes a file so that, whatever happens, the old or the new one is there, whole: a temporary file beside it,
/// fsync, rename, fsync of the folder. When this returns, the new one survives a power cut.
pub fn write(path: &Path, bytes: &[u8], access: Access) -> Result<(), Error> {
    let remedy = "check that the folder exists, is yours, and that the disk is not full";
    let temporary = temporary_beside(path)?;
    let written = write_whole(&temporary, bytes, access)
        .and_then(|()| fs::rename(&temporary, path))
        .and_then(|()| sync_folder(path));
    written.map_err(|error| {
        // The temporary file may never have been made, or is the target by now; there is nothing to do if it stays.
        let _ = fs::remove_file(&temporary);
        Error::file("write", path, error, remedy)
    })
}

/// Gives a file another name in its folder, in place of what had it. When this returns, that survives a power cut.
pub fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    let renamed = fs::rename(from, to).and_then(|()| sync_folder(to));
    renamed.map_err(|error| Error::file("rename to", to, error, "check who owns the folder"))
}

/// Reads a file that anybody may read. `remedy` says what to do when it is not there.
pub fn read(path: &Path, remedy: &str) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|error| Error::file("read", path, error, remedy))
}

/// Reads a file that holds a secret; refuses it if others than its owner may open it.
pub fn read_private(path: &Path, remedy: &str) -> Result<Vec<u8>, Error> {
    read_key(path, false, remedy)
}

/// The same; but with `group_may_read`, reading by its group is let pass. That is for public certificates that
/// another program renews: certbot's keys are root's, and services read them by their group.
pub fn read_key(path: &Path, group_may_read: bool, remedy: &str) -> Result<Vec<u8>, Error> {
    let failed = |error| Error::file("read", path, error, remedy);
    let mut file = File::open(path).map_err(failed)?;
    // Asked of the open file, not of the name: what is checked is what is read.
    refuse_if_exposed(path, &file, if group_may_read { 0o037 } else { 0o077 })?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// Like [`read`], but a file that is not there is `None`.
pub fn read_if_there(path: &Path, remedy: &str) -> Result<Option<Vec<u8>>, Error> {
    if path.try_exists().map_err(|error| Error::file("read", path, error, remedy))? {
        read(path, remedy).map(Some)
    } else {
        Ok(None)
    }
}

/// Makes a folder for private files, 0700, unless it is there.
pub fn make_folder(path: &Path) -> Result<(), Error> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder
        .create(path)
        .map_err(|error| Error::file("make the folder", path, error, "check who owns the folder above it"))
}

fn temporary_beside(path: &Path) -> Result<PathBuf, Error> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    Ok(path.with_file_name(format!(".{name}.{}.new", hex(&secret::random::<6>()?))))
}

fn write_whole(path: &Path, bytes: &[u8], access: Access) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    // Private from its first moment, so that no one can open it before the mode is set.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    #[cfg(unix)]
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(access.mode()))?;
    #[cfg(unix)]
    leave_to_owner_of_folder(path, &file)?;
    #[cfg(not(unix))]
    let _ = access;
    file.write_all(bytes)?;
    file.sync_all()
}

/// What root writes into somebody's folder is that somebody's: `sudo trishula cert renew` must not take the key away
/// from the user that the node runs as.
#[cfg(unix)]
fn leave_to_owner_of_folder(path: &Path, file: &File) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt, fchown};
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let (owner, ours) = (fs::metadata(folder)?, file.metadata()?);
    if ours.uid() == 0 && owner.uid() != 0 {
        fchown(file, Some(owner.uid()), Some(owner.gid()))?;
    }
    Ok(())
}

fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        #[cfg(unix)]
        Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
        #[cfg(unix)]
        Some(_) => File::open(".")?.sync_all(),
        _ => Ok(()),
    }
}

#[cfg(unix)]
fn refuse_if_exposed(path: &Path, file: &File, forbidden: u32) -> Result<(), Error> {
    use std::os::unix::fs::PermissionsExt;
    let metadata = file.metadata().map_err(|e| Error::file("look at", path, e, "check who owns it"))?;
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & forbidden == 0 { Ok(()) } else { Err(Error::Exposed { path: path.into(), mode }) }
}

#[cfg(not(unix))]
fn refuse_if_exposed(_path: &Path, _file: &File, _forbidden: u32) -> Result<(), Error> {
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_private_file_is_private_and_whole() {
        // covers B16
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("link.key");
        write(&path, b"one", Access::Private).unwrap();
        write(&path, b"two", Access::Private).unwrap();
        assert_eq!(read_private(&path, "").unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        write(&path, b"three", Access::Public).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn a_key_that_others_may_read_is_refused_with_the_mending_command() {
        // covers B16
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("link.key");
        write(&path, b"key", Access::Private).unwrap();
        for mode in [0o640, 0o604, 0o620, 0o660] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = read_private(&path, "").unwrap_err().to_string();
            assert!(error.contains(&format!("chmod 600 '{}'", path.display())), "{error}");
            assert_eq!(read_key(&path, true, "").is_ok(), mode == 0o640, "{mode:o}");
        }
    }

    #[test]
    fn an_absent_file_is_named_with_what_to_do() {
        // covers Q07
        let error = read(Path::new("/nowhere/ca.pem"), "run `trishula join`").unwrap_err().to_string();
        assert!(error.contains("/nowhere/ca.pem") && error.contains("trishula join"), "{error}");
        let error = write(Path::new("/nowhere/x"), b"", Access::Public).unwrap_err().to_string();
        assert!(error.contains("/nowhere/x"), "{error}");
    }
}
