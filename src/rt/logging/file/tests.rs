//! Lines through the thread into files of a few bytes.

use super::*;

fn rotation(folder: &Path, max_bytes: u64, keep: u64) -> Rotation {
    Rotation { path: folder.join("log"), max_bytes, keep }
}

/// Writes each, and waits until all is in the file.
fn write(rotation: &Rotation, each: &[&str]) {
    let (mut lines, running) = open(rotation).unwrap();
    each.iter().for_each(|line| lines.write_all(line.as_bytes()).unwrap());
    drop(running);
}

/// What is in the file and in those before it; the folder has no others.
fn files(rotation: &Rotation) -> Vec<String> {
    let numbered = (1..).map(|n| rotation.numbered(n));
    let there = std::iter::once(rotation.path.clone()).chain(numbered).take_while(|path| path.exists());
    let texts: Vec<String> = there.map(|path| fs::read_to_string(path).unwrap()).collect();
    assert_eq!(fs::read_dir(folder(&rotation.path)).unwrap().count(), texts.len(), "{texts:?}");
    texts
}

#[test]
fn a_full_file_is_renamed_and_no_more_stay_than_are_kept() {
    // covers B29
    let folder = tempfile::tempdir().unwrap();
    let rotation = rotation(folder.path(), 4, 2);
    write(&rotation, &["a\n", "b\n", "c\n", "long line\n", "d\n"]);
    assert_eq!(files(&rotation), ["d\n", "long line\n", "c\n"], "a line is never cut, and a and b are gone");
    // A process that starts goes on with the file, and goes by what is configured now.
    write(&rotation, &["e\n"]);
    assert_eq!(files(&rotation), ["d\ne\n", "long line\n", "c\n"]);
    write(&Rotation { keep: 1, ..rotation.clone() }, &["f\n"]);
    assert_eq!(files(&rotation), ["f\n", "d\ne\n"]);
    write(&Rotation { keep: 0, ..rotation.clone() }, &["g\n", "h\n"]);
    assert_eq!(files(&rotation), ["h\n"]);
}

#[test]
fn a_file_that_was_moved_or_cut_is_followed() {
    // covers B29
    let folder = tempfile::tempdir().unwrap();
    let rotation = rotation(folder.path(), 8, 1);
    let (mut lines, running) = open(&rotation).unwrap();
    lines.write_all(b"before\n").unwrap();
    // The thread has written it when it has nothing to do.
    while fs::read(&rotation.path).unwrap().is_empty() {
        std::thread::yield_now();
    }
    fs::rename(&rotation.path, folder.path().join("aside")).unwrap();
    lines.look();
    lines.write_all(b"after\n").unwrap();
    while !rotation.path.exists() || fs::read(&rotation.path).unwrap().is_empty() {
        std::thread::yield_now();
    }
    assert_eq!(fs::read_to_string(folder.path().join("aside")).unwrap(), "before\n");
    assert_eq!(fs::read_to_string(&rotation.path).unwrap(), "after\n");
    // `logrotate` with copytruncate: there is room again.
    File::options().write(true).open(&rotation.path).unwrap().set_len(0).unwrap();
    lines.write_all(b"cut\n").unwrap();
    drop(running);
    assert_eq!(fs::read_to_string(&rotation.path).unwrap(), "cut\n");
    assert!(!rotation.numbered(1).exists());
}

#[test]
fn a_rotation_that_is_tried_again_pushes_nothing_out() {
    // covers B29
    let folder = tempfile::tempdir().unwrap();
    let rotation = rotation(folder.path(), 4, 3);
    write(&rotation, &["first\n", "second\n", "third\n", "fourth\n"]);
    let numbered = || [1, 2, 3].map(|n| fs::read_to_string(rotation.numbered(n)).unwrap_or_default());
    assert_eq!(numbered(), ["third\n", "second\n", "first\n"]);
    // As where it was renamed, and another one could not be opened.
    fs::remove_file(&rotation.path).unwrap();
    for _ in 0..3 {
        assert_eq!(rotation.shift().unwrap_err().kind(), ErrorKind::NotFound);
    }
    assert_eq!(numbered(), ["third\n", "second\n", "first\n"]);
    // A number that is free is filled, and those behind it stay.
    fs::remove_file(rotation.numbered(1)).unwrap();
    fs::write(&rotation.path, "fifth\n").unwrap();
    rotation.shift().unwrap();
    assert_eq!(numbered(), ["fifth\n", "second\n", "first\n"]);
}

#[test]
fn lines_for_a_file_that_was_removed_with_its_folder_are_refused_and_counted() {
    // covers B29
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("inner");
    fs::create_dir(&inner).unwrap();
    let rotation = rotation(&inner, 100, 1);
    let before = metrics::LOG_REFUSED.get();
    let (mut lines, running) = open(&rotation).unwrap();
    fs::remove_dir_all(&inner).unwrap();
    lines.look();
    lines.write_all(b"a line of a test that is on standard error\n").unwrap();
    drop(running);
    assert_eq!(metrics::LOG_REFUSED.get() - before, 1);
}

#[test]
fn lines_without_room_are_counted_and_told() {
    // covers B29
    let full = || metrics::QUEUE_FULL.with_label_values(&["log"]).get();
    let before = full();
    let (mut lines, waiting) = lines();
    // Nobody reads: as while a disk hangs.
    for _ in 0..MAX_LINES + 3 {
        lines.write_all(b"a\n").unwrap();
    }
    assert_eq!((full() - before, lines.shared.lost.load(SeqCst)), (3, 3));
    drop(waiting);
    let (mut lines, mut waiting) = super::lines();
    let long = vec![b'a'; MAX_BYTES + 1];
    lines.write_all(&long).unwrap();
    lines.write_all(b"b\n").unwrap();
    assert_eq!(lines.shared.lost.load(SeqCst), 1, "one fits always, a second one does not");
    assert_eq!(waiting.try_recv().unwrap().len(), long.len());
    assert!(waiting.try_recv().is_err());
}
