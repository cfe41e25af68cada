//! The rows as a picture: from p50 to p99.9 on a logarithmic scale, by hand, as a handful of lines needs no library.
use crate::report::{Row, title};
use std::fmt::Write as _;

const LEFT: f64 = 150.0;
const WIDTH: f64 = 620.0;
const LINE: f64 = 18.0;
/// The scale, in milliseconds.
const FROM: f64 = 10.0;
const TO: f64 = 10_000.0;
const COLOURS: [(&str, &str); 4] =
    [("mesh", "#c02020"), ("quic", "#2060c0"), ("wss", "#208040"), ("bare", "#606060")];

/// An SVG document.
pub fn svg(rows: &[Row]) -> String {
    let mut body = String::new();
    let mut y = 40.0;
    let mut before = None;
    for row in rows {
        if before.replace((row.section, row.loss)) != Some((row.section, row.loss)) {
            y += LINE;
            let what = format!("{}, {} % loss each way", title(row.section), row.loss);
            text(&mut body, LEFT, y + 4.0, "start", "bold", &what);
            y += LINE;
        }
        draw(&mut body, row, y);
        y += LINE;
    }
    let mut grid = String::new();
    for ms in [10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10_000.0] {
        let x = place(ms);
        // Writing to a string cannot fail.
        let _ = writeln!(grid, r##"<line x1="{x:.1}" y1="44" x2="{x:.1}" y2="{y:.0}" stroke="#ddd"/>"##);
        text(&mut grid, x, 38.0, "middle", "normal", &ms.to_string());
    }
    let head = "One way in ms: p50 (dot), p90, p99 and p99.9 (ticks); an arrow goes on to the right";
    text(&mut grid, 10.0, 18.0, "start", "bold", head);
    let (width, height) = (LEFT + WIDTH + 30.0, y + LINE);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{grid}{body}</svg>\n"
    )
}

fn draw(out: &mut String, row: &Row, y: f64) {
    let colour =
        COLOURS.iter().find(|(name, _)| row.name.starts_with(name)).map_or("black", |(_, colour)| colour);
    text(out, LEFT - 8.0, y + 4.0, "end", "normal", row.name);
    if row.p50.is_nan() {
        return text(out, LEFT, y + 4.0, "start", "normal", "nothing arrived");
    }
    let (first, last) = (place(row.p50), place(row.p999));
    let _ = writeln!(
        out,
        r#"<line x1="{first:.1}" y1="{y}" x2="{last:.1}" y2="{y}" stroke="{colour}" stroke-width="2"/>"#
    );
    for (at, height) in [(row.p90, 3.0), (row.p99, 4.0), (row.p999, 6.0)] {
        let (x, top, bottom) = (place(at), y - height, y + height);
        let _ =
            writeln!(out, r#"<line x1="{x:.1}" y1="{top}" x2="{x:.1}" y2="{bottom}" stroke="{colour}"/>"#);
    }
    let _ = writeln!(out, r#"<circle cx="{first:.1}" cy="{y}" r="4" fill="{colour}"/>"#);
    if row.p999 > TO {
        text(out, LEFT + WIDTH + 4.0, y + 4.0, "start", "normal", "→");
    }
}

fn place(ms: f64) -> f64 {
    let share = (ms.clamp(FROM, TO) / FROM).ln() / (TO / FROM).ln();
    LEFT + share * WIDTH
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, weight: &str, what: &str) {
    let what = what.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(
        out,
        r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" font-weight="{weight}">{what}</text>"#
    );
}
