//! "Did you mean": the nearest of the names that are allowed.

/// The nearest name, if one is near enough to be meant.
pub(super) fn nearest<'a>(given: &str, allowed: &'a [String]) -> Option<&'a str> {
    let given = given.to_ascii_lowercase();
    allowed
        .iter()
        .map(|name| (distance(&given, name), name))
        .filter(|(distance, name)| *distance <= (name.chars().count().max(given.len()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name.as_str())
}

/// Insertions, deletions, replacements and swaps of neighbours that make `b` of `a` (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0usize; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_near_is_suggested() {
        // covers Q07
        let allowed: Vec<String> = ["listen", "advertise", "heartbeat_ms"].map(String::from).into();
        assert_eq!(nearest("lisen", &allowed), Some("listen"));
        assert_eq!(nearest("Lsiten", &allowed), Some("listen"));
        assert_eq!(nearest("heartbeat", &allowed), Some("heartbeat_ms"));
        assert_eq!(nearest("port", &allowed), None);
        assert_eq!((distance("", "abc"), distance("ab", "ba"), distance("abc", "abc")), (3, 1, 0));
    }
}
