//! JSON → MessagePack.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use rmp::encode;
use serde::Deserialize;
use serde_json::value::RawValue;
use trishula::wire::client::MAX_DEPTH;

use super::{BIN, MAX_BIN, push_step};

/// Longest pointer that is followed, in bytes: each string of the frame is compared with them.
const MAX_POINTER: usize = 1024;
/// Longest `/payload/messages/N` before one.
const PREFIX: usize = 32;
/// The answer to HISTORY has whole frames in it, so many levels down.
const WITHIN_HISTORY: usize = 3;

/// One frame of a session's, which is JSON that was checked where it entered the mesh. `None`: it is not.
pub fn from_json(frame: &[u8]) -> Option<Bytes> {
    let text = std::str::from_utf8(frame).ok()?;
    let mut writer = Writer {
        text: text.as_bytes(),
        at: 0,
        out: Vec::with_capacity(text.len()),
        path: String::new(),
        marks: Marks::of(text),
    };
    writer.value(0)?;
    writer.space();
    (writer.at == text.len()).then(|| writer.out.into())
}

/// Where strings are bytes, and which fields say so.
#[derive(Default)]
struct Marks {
    bins: BTreeSet<String>,
    fields: BTreeSet<String>,
}

/// An envelope, or one within the answer to HISTORY.
#[derive(Deserialize)]
struct Marked<'a> {
    #[serde(borrow)]
    bin: Option<&'a RawValue>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct History<'a> {
    #[serde(borrow)]
    messages: Vec<&'a RawValue>,
}

impl Marks {
    fn of(text: &str) -> Marks {
        let mut marks = Marks::default();
        // Few frames have any.
        if !text.contains("\"bin\"") {
            return marks;
        }
        let Ok(frame) = serde_json::from_str::<Marked<'_>>(text) else { return marks };
        marks.add("", &frame);
        let history =
            frame.payload.and_then(|payload| serde_json::from_str::<History<'_>>(payload.get()).ok());
        for (n, message) in
            history.map(|history| history.messages).unwrap_or_default().into_iter().enumerate()
        {
            if let Ok(message) = serde_json::from_str::<Marked<'_>>(message.get()) {
                marks.add(&format!("/payload/messages/{n}"), &message);
            }
        }
        marks
    }

    /// A field of that name and another form is somebody's own, and stays.
    fn add(&mut self, prefix: &str, frame: &Marked<'_>) {
        let bins = frame.bin.and_then(|bin| serde_json::from_str::<Vec<String>>(bin.get()).ok());
        let fits =
            |bins: &Vec<String>| bins.len() <= MAX_BIN && bins.iter().all(|bin| bin.len() <= MAX_POINTER);
        let Some(bins) = bins.filter(fits) else { return };
        self.fields.insert(format!("{prefix}/{BIN}"));
        self.bins.extend(bins.into_iter().map(|bin| format!("{prefix}{bin}")));
    }

    fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }
}

struct Writer<'a> {
    text: &'a [u8],
    at: usize,
    out: Vec<u8>,
    path: String,
    marks: Marks,
}

impl<'a> Writer<'a> {
    fn space(&mut self) {
        while matches!(self.text.get(self.at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Goes over this byte behind white space, if it is there.
    fn skip(&mut self, byte: u8) -> bool {
        self.space();
        let found = self.text.get(self.at) == Some(&byte);
        self.at += usize::from(found);
        found
    }

    fn word(&mut self, word: &str) -> Option<()> {
        self.text[self.at..].starts_with(word.as_bytes()).then(|| self.at += word.len())
    }

    fn value(&mut self, depth: usize) -> Option<()> {
        self.space();
        match self.text.get(self.at)? {
            b'{' => self.container(depth + 1, b'}'),
            b'[' => self.container(depth + 1, b']'),
            b'"' => {
                let text = self.string()?;
                self.put_string(&text)
            }
            b'n' => {
                self.word("null")?;
                encode::write_nil(&mut self.out).ok()
            }
            b't' => {
                self.word("true")?;
                encode::write_bool(&mut self.out, true).ok()
            }
            b'f' => {
                self.word("false")?;
                encode::write_bool(&mut self.out, false).ok()
            }
            _ => self.number(),
        }
    }

    /// How many values there are comes before them, and is known behind them: room for a small number is kept.
    fn container(&mut self, depth: usize, end: u8) -> Option<()> {
        if depth > MAX_DEPTH + WITHIN_HISTORY {
            return None;
        }
        self.at += 1;
        let (head, here, is_map) = (self.out.len(), self.path.len(), end == b'}');
        self.out.push(0);
        let (mut count, mut n) = (0u32, 0usize);
        if !self.skip(end) {
            loop {
                count += u32::from(self.entry(depth, is_map, n)?);
                self.path.truncate(here);
                n += 1;
                if self.skip(end) {
                    break;
                }
                self.skip(b',').then_some(())?;
            }
        }
        let mut header = Vec::with_capacity(5);
        if is_map {
            encode::write_map_len(&mut header, count).ok()?;
        } else {
            encode::write_array_len(&mut header, count).ok()?;
        }
        self.out.splice(head..=head, header);
        Some(())
    }

    /// Answers whether it was written.
    fn entry(&mut self, depth: usize, is_map: bool, n: usize) -> Option<bool> {
        self.space();
        let marked = !self.marks.is_empty();
        if !is_map {
            if marked {
                self.step(&n.to_string());
            }
            self.value(depth)?;
            return Some(true);
        }
        let key = self.string()?;
        let before = self.out.len();
        encode::write_str(&mut self.out, &key).ok()?;
        self.skip(b':').then_some(())?;
        if marked {
            self.step(&key);
        }
        let drop = marked && self.marks.fields.contains(&self.path);
        self.value(depth)?;
        if drop {
            self.out.truncate(before);
        }
        Some(!drop)
    }

    /// Beyond the longest pointer the path is none that anything is compared with, and is not built.
    fn step(&mut self, step: &str) {
        let longest = MAX_POINTER + PREFIX;
        if self.path.len() <= longest && step.len() <= longest {
            push_step(&mut self.path, step);
        } else if self.path.len() <= longest {
            push_step(&mut self.path, &"_".repeat(longest));
        }
    }

    fn string(&mut self) -> Option<String> {
        let start = self.at;
        (self.text.get(start) == Some(&b'"')).then_some(())?;
        let mut escaped = false;
        for (n, byte) in self.text[start + 1..].iter().enumerate() {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => {
                    self.at = start + n + 2;
                    let text = std::str::from_utf8(&self.text[start..self.at]).ok()?;
                    return serde_json::from_str(text).or_else(|_| serde_json::from_str(&whole(text))).ok();
                }
                _ => {}
            }
        }
        None
    }

    fn put_string(&mut self, text: &str) -> Option<()> {
        if !self.marks.is_empty()
            && self.marks.bins.contains(&self.path)
            && let Ok(bytes) = STANDARD.decode(text)
        {
            return encode::write_bin(&mut self.out, &bytes).ok();
        }
        encode::write_str(&mut self.out, text).ok()
    }

    fn number(&mut self) -> Option<()> {
        let start = self.at;
        while matches!(self.text.get(self.at), Some(b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E')) {
            self.at += 1;
        }
        let text = std::str::from_utf8(&self.text[start..self.at]).ok()?;
        if let Ok(number) = text.parse::<u64>() {
            return encode::write_uint(&mut self.out, number).ok().map(drop);
        }
        match text.parse::<i64>() {
            Ok(number) if number != 0 => encode::write_sint(&mut self.out, number).ok().map(drop),
            // −0 has no integer, and what is larger than any integer neither.
            _ => match text.parse::<f64>().ok()? {
                number if number.is_finite() => encode::write_f64(&mut self.out, number).ok(),
                // An infinity is another value, and who would think of looking for it? Its digits say what was meant.
                _ => encode::write_str(&mut self.out, text).ok(),
            },
        }
    }
}

/// Half of a surrogate pair, which JSON can write and UTF-8 cannot, is U+FFFD.
fn whole(text: &str) -> String {
    let unit = |at: usize| {
        let digits = text.get(at..at + 6)?.strip_prefix("\\u")?;
        u16::from_str_radix(digits, 16).ok()
    };
    let (mut out, mut at) = (String::with_capacity(text.len()), 0);
    while let Some(character) = text[at..].chars().next() {
        let mut length = character.len_utf8();
        match (character, unit(at)) {
            ('\\', Some(0xD800..=0xDBFF)) if matches!(unit(at + 6), Some(0xDC00..=0xDFFF)) => {
                length = 12;
                out.push_str(&text[at..at + length]);
            }
            ('\\', Some(0xD800..=0xDFFF)) => {
                length = 6;
                out.push('\u{FFFD}');
            }
            ('\\', _) => {
                // With what it escapes: a second backslash begins nothing.
                length += text[at + 1..].chars().next().map_or(0, char::len_utf8);
                out.push_str(&text[at..at + length]);
            }
            (other, _) => out.push(other),
        }
        at += length;
    }
    out
}
