//! Whether a file has changed: by what is in it. Not every file system tells two changes in one second apart by their time, and a
//! key that replaces another is often as long.

use std::collections::hash_map::DefaultHasher;
use std::fs::File;
use std::hash::Hasher;
use std::io::Read;
use std::path::Path;

/// What is beyond is not looked at: no file that an edge reads is larger.
const MOST_BYTES: u64 = 16 << 20;

/// What was in a file; `None`: it can't be read.
pub type Stamp = Option<u64>;

/// Of this file now.
pub fn stamp(path: &Path) -> Stamp {
    let mut contents = Vec::new();
    File::open(path).ok()?.take(MOST_BYTES).read_to_end(&mut contents).ok()?;
    let mut hasher = DefaultHasher::new();
    hasher.write(&contents);
    Some(hasher.finish())
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn another_key_of_the_same_length_and_time_is_another() {
        // covers B11
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        assert_eq!(stamp(&path), None);
        let then = SystemTime::now();
        let put = |text: &str| {
            std::fs::write(&path, text).unwrap();
            File::options().append(true).open(&path).unwrap().set_modified(then).unwrap();
            stamp(&path)
        };
        let (old, new) = (put("old-key"), put("new-key"));
        assert_ne!(old, new);
        assert_eq!(put("old-key"), old);
        assert_ne!(put(""), None);
    }
}
