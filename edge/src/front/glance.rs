//! A glance at the beginning of a frame: its `type` and `to`, without reading the rest. For counting: who decides something by a
//! type reads the frame where nothing is seen here.

/// How far is looked, in bytes.
const FAR: usize = 1024;

/// What was seen.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Seen<'a> {
    /// `type`, as it stands there.
    pub kind: Option<&'a str>,
    /// `to`, likewise.
    pub to: Option<&'a str>,
}

/// Looks at a frame. Whatever stands there, it takes a bounded time; strings with escapes are not seen.
pub fn at(frame: &[u8]) -> Seen<'_> {
    let mut seen = Seen::default();
    let mut text = Text { bytes: &frame[..frame.len().min(FAR)], at: 0 };
    // What has no end within reach ends the search.
    let _ = text.fields(&mut seen);
    seen
}

struct Text<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Text<'a> {
    fn fields(&mut self, seen: &mut Seen<'a>) -> Option<()> {
        self.eat(b'{')?;
        loop {
            let key = self.string()?;
            self.eat(b':')?;
            if self.peek()? == b'"' {
                let value = self.string()?;
                match key {
                    "type" => seen.kind = Some(value),
                    "to" => seen.to = Some(value),
                    _ => {}
                }
            } else {
                self.skip()?;
            }
            if seen.kind.is_some() && seen.to.is_some() {
                return Some(());
            }
            self.eat(b',')?;
        }
    }

    fn peek(&mut self) -> Option<u8> {
        while self.bytes.get(self.at)?.is_ascii_whitespace() {
            self.at += 1;
        }
        self.bytes.get(self.at).copied()
    }

    fn eat(&mut self, byte: u8) -> Option<()> {
        let found = self.peek()? == byte;
        self.at += 1;
        found.then_some(())
    }

    /// What stands between two quotes.
    fn string(&mut self) -> Option<&'a str> {
        self.eat(b'"')?;
        let from = self.at;
        loop {
            match self.bytes.get(self.at)? {
                b'\\' => self.at += 2,
                b'"' => break,
                _ => self.at += 1,
            }
        }
        self.at += 1;
        std::str::from_utf8(&self.bytes[from..self.at - 1]).ok()
    }

    /// A value that is no string.
    fn skip(&mut self) -> Option<()> {
        let mut depth = 0usize;
        loop {
            match self.peek()? {
                b'"' => drop(self.string()?),
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' if depth == 0 => return Some(()),
                b'}' | b']' => {
                    depth -= 1;
                    self.at += 1;
                }
                b',' if depth == 0 => return Some(()),
                _ => self.at += 1,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(text: &str) -> (Option<&str>, Option<&str>) {
        let Seen { kind, to } = at(text.as_bytes());
        (kind, to)
    }

    #[test]
    fn type_and_recipient_are_seen_where_they_stand() {
        // covers B21
        let both = (Some("STATUS"), Some("agni"));
        assert_eq!(seen(r#"{"type":"STATUS","to":"agni","payload":{}}"#), both);
        assert_eq!(
            seen(r#" { "to" : "agni" , "x":[{"type":"no"},"}"], "n":-1.5e3, "type" : "STATUS" }"#),
            both
        );
        assert_eq!(
            seen(r#"{"payload":{"type":"no","to":"no","s":"\"}"},"type":"STATUS","to":"agni"}"#),
            both
        );
        assert_eq!(
            seen(r#"{"id":"1","correlation_id":null,"type":"event","event":"x"}"#),
            (Some("event"), None)
        );
    }

    #[test]
    fn anything_else_is_borne() {
        // covers B19
        let far = format!(r#"{{"payload":"{}","type":"STATUS"}}"#, "x".repeat(2 * FAR));
        let deep = "[".repeat(5000);
        for text in [
            "",
            "mac",
            "{",
            "{}",
            "[]",
            "{\"type\"",
            "{\"type\":",
            "{\"type\":\"",
            "{\"type\":\"\\",
            "{\"a\":1",
            "{,}",
            "{\"a\":}",
            &far,
            &deep,
            &format!("{{\"a\":{deep}"),
        ] {
            assert_eq!(seen(text), (None, None), "{text}");
        }
        assert_eq!(at(b"{\"type\":\"\xff\"}"), Seen::default());
    }
}
