//! When hop records were dropped: the times of which a trail may lack steps.

use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, params};

/// Spans that are kept; of more, those that are nearest to each other are taken together.
const MOST: usize = 64;
/// Drops with less than this between them are one span.
const NEAR_MS: u64 = 1000;

/// From the first record that was dropped to the last, in milliseconds of the node's wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Span {
    /// The first one's time.
    pub from_ms: u64,
    /// The last one's.
    pub to_ms: u64,
}

/// What was dropped, by whoever drops it and for whoever tells. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Missing(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    /// In order, apart from each other.
    spans: Vec<Span>,
    /// Not on disk yet.
    is_news: bool,
}

impl Missing {
    /// A record of this time is lost.
    pub fn add(&self, at_ms: u64) {
        self.with(|inner| {
            inner.is_news = true;
            match inner.spans.last_mut() {
                // Whoever drops many has other things to do.
                Some(last) if last.from_ms <= at_ms && at_ms <= last.to_ms.saturating_add(NEAR_MS) => {
                    last.to_ms = last.to_ms.max(at_ms);
                }
                _ => merge(&mut inner.spans, Span { from_ms: at_ms, to_ms: at_ms }),
            }
        });
    }

    /// All of them, in order.
    pub fn spans(&self) -> Vec<Span> {
        self.with(|inner| inner.spans.clone())
    }

    /// Takes what an earlier life has written into the file.
    pub fn load(&self, connection: &Connection) -> rusqlite::Result<()> {
        connection.execute_batch(
            "CREATE TABLE IF NOT EXISTS missing (from_ms INTEGER NOT NULL, to_ms INTEGER NOT NULL);",
        )?;
        let mut select = connection.prepare("SELECT from_ms, to_ms FROM missing")?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let (from_ms, to_ms) = (row.get::<_, i64>(0)? as u64, row.get::<_, i64>(1)? as u64);
            self.with(|inner| merge(&mut inner.spans, Span { from_ms, to_ms }));
        }
        Ok(())
    }

    /// Writes what is new, and forgets what lies before the first record that is kept.
    pub fn store(&self, connection: &mut Connection) -> rusqlite::Result<()> {
        let Some(spans) = self.with(|inner| inner.is_news.then(|| inner.spans.clone())) else {
            return Ok(());
        };
        let transaction = connection.transaction()?;
        let gone: i64 = transaction.query_row("SELECT before_ms FROM gone", [], |row| row.get(0))?;
        transaction.execute("DELETE FROM missing", [])?;
        for span in spans.iter().filter(|span| span.to_ms >= gone as u64) {
            let values = params![span.from_ms as i64, span.to_ms as i64];
            transaction.execute("INSERT INTO missing VALUES (?1, ?2)", values)?;
        }
        transaction.commit()?;
        self.with(|inner| {
            // More may have been dropped meanwhile.
            inner.is_news = inner.spans != spans;
            inner.spans.retain(|span| span.to_ms >= gone as u64);
        });
        Ok(())
    }

    fn with<T>(&self, what: impl FnOnce(&mut Inner) -> T) -> T {
        // Whoever panicked with it has left a list that is whole.
        what(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn merge(spans: &mut Vec<Span>, new: Span) {
    let at = spans.partition_point(|span| span.from_ms <= new.from_ms);
    spans.insert(at, new);
    let mut joined: Vec<Span> = Vec::with_capacity(spans.len());
    for span in spans.drain(..) {
        match joined.last_mut() {
            Some(last) if span.from_ms <= last.to_ms.saturating_add(NEAR_MS) => {
                last.to_ms = last.to_ms.max(span.to_ms);
            }
            _ => joined.push(span),
        }
    }
    *spans = joined;
    if spans.len() > MOST
        && let Some(first) = (1..spans.len()).min_by_key(|n| spans[*n].from_ms - spans[*n - 1].to_ms)
    {
        let second = spans.remove(first);
        spans[first - 1].to_ms = second.to_ms;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(from_ms: u64, to_ms: u64) -> Span {
        Span { from_ms, to_ms }
    }

    #[test]
    fn drops_near_each_other_are_one_span_in_whatever_order_they_come() {
        // covers Q05
        let missing = Missing::default();
        for at in [5_000, 5_900, 20_000, 4_200, 19_500, 5_000] {
            missing.add(at);
        }
        assert_eq!(missing.spans(), [span(4_200, 5_900), span(19_500, 20_000)]);
        missing.add(7_000);
        assert_eq!(missing.spans().len(), 3, "more than a second later");
        missing.add(6_500);
        assert_eq!(
            missing.spans(),
            [span(4_200, 7_000), span(19_500, 20_000)],
            "what lies between joins them"
        );
    }

    #[test]
    fn of_too_many_spans_none_is_forgotten() {
        // covers Q05, B09
        let missing = Missing::default();
        let times: Vec<u64> = (0..10 * MOST as u64).map(|n| n * 10_000 + n % 7).collect();
        times.iter().for_each(|at| missing.add(*at));
        let spans = missing.spans();
        assert_eq!(spans.len(), MOST);
        let is_said = |at: &u64| spans.iter().any(|span| span.from_ms <= *at && *at <= span.to_ms);
        assert!(times.iter().all(is_said), "{spans:?}");
    }
}
