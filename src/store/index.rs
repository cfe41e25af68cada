//! Which row a message has: in memory, beside the file.
//!
//! An index in the file would be by ids that clients choose, so every message of a group would change another of its
//! pages: it cost more than all the rest of a commit (docs/benchmarks.md). All rows are read at a start anyway.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::row::KeyText;

/// Rows by key, shared by the writer and the reader. A lock is held for one look-up.
#[derive(Debug, Clone, Default)]
pub(super) struct Index(Arc<Mutex<Inner>>);

/// Two hashes with secret seeds stand for a key: 128 bits, which nobody makes collide.
#[derive(Debug, Default)]
struct Inner {
    ids: HashMap<u64, Rows>,
    by_id: RandomState,
    by_key: RandomState,
}

#[derive(Debug)]
enum Rows {
    One(u64, i64),
    /// A broadcast: one row a recipient.
    Many(HashMap<u64, i64>),
}

impl Inner {
    fn hashes(&self, key: &KeyText) -> (u64, u64) {
        (self.by_id.hash_one(&key.id), self.by_key.hash_one((&key.sender, &key.recipient)))
    }
}

impl Index {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here panics halfway.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The row of a message.
    pub fn get(&self, key: &KeyText) -> Option<i64> {
        let inner = self.lock();
        let (id, rest) = inner.hashes(key);
        match inner.ids.get(&id)? {
            Rows::One(known, n) => (*known == rest).then_some(*n),
            Rows::Many(rows) => rows.get(&rest).copied(),
        }
    }

    /// The rows of all messages of this id, at most so many; they may be of another id by an accident of the hash.
    pub fn of_id(&self, id: &str, most: usize) -> Vec<i64> {
        let inner = self.lock();
        match inner.ids.get(&inner.by_id.hash_one(id)) {
            None => Vec::new(),
            Some(Rows::One(_, n)) => vec![*n],
            Some(Rows::Many(rows)) => {
                let mut rows: Vec<i64> = rows.values().copied().collect();
                rows.sort_unstable();
                rows.truncate(most);
                rows
            }
        }
    }

    /// Adds a row; answers the one that the message had before.
    pub fn insert(&self, key: &KeyText, n: i64) -> Option<i64> {
        let mut inner = self.lock();
        let (id, rest) = inner.hashes(key);
        match inner.ids.get_mut(&id) {
            None => {
                inner.ids.insert(id, Rows::One(rest, n));
                None
            }
            Some(Rows::One(known, row)) if *known == rest => Some(std::mem::replace(row, n)),
            Some(rows @ Rows::One(..)) => {
                let mut many = HashMap::from([(rest, n)]);
                if let Rows::One(known, row) = *rows {
                    many.insert(known, row);
                }
                *rows = Rows::Many(many);
                None
            }
            Some(Rows::Many(rows)) => rows.insert(rest, n),
        }
    }

    /// Forgets a message.
    pub fn remove(&self, key: &KeyText) {
        let mut inner = self.lock();
        let (id, rest) = inner.hashes(key);
        let empty = match inner.ids.get_mut(&id) {
            None => false,
            Some(Rows::One(known, _)) => *known == rest,
            Some(Rows::Many(rows)) => {
                rows.remove(&rest);
                rows.is_empty()
            }
        };
        if empty {
            inner.ids.remove(&id);
        }
    }

    /// Forgets all.
    pub fn clear(&self) {
        self.lock().ids.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str, recipient: &str) -> KeyText {
        KeyText { id: id.into(), sender: "t/dc".into(), recipient: recipient.into() }
    }

    #[test]
    fn rows_are_found_by_their_key_and_by_their_id() {
        // covers T10
        let index = Index::default();
        assert_eq!(index.insert(&key("1", "t/a"), 1), None);
        assert_eq!(index.insert(&key("2", "t/a"), 2), None);
        assert_eq!(index.insert(&key("1", "t/b"), 3), None);
        assert_eq!(index.insert(&key("1", "t/c"), 4), None);
        assert_eq!(index.insert(&key("1", "t/c"), 5), Some(4), "a key has one row");
        assert_eq!((index.get(&key("1", "t/c")), index.get(&key("2", "t/b"))), (Some(5), None));
        assert_eq!(index.of_id("1", 9), [1, 3, 5]);
        assert_eq!(index.of_id("1", 2), [1, 3]);
        for recipient in ["t/a", "t/b", "t/c"] {
            index.remove(&key("1", recipient));
        }
        assert_eq!((index.of_id("1", 9), index.of_id("2", 9)), (vec![], vec![2]));
        index.remove(&key("2", "t/b"));
        assert_eq!(index.get(&key("2", "t/a")), Some(2), "another message of the same id stays");
    }
}
