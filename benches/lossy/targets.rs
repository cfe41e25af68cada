//! What we hold ourselves to, beside what was measured.
use crate::report::Row;

/// Round trip, in milliseconds.
const RTT: f64 = 50.0;

/// One line a target, for the rows that are there.
pub fn lines(rows: &[Row]) -> Vec<String> {
    let mut lines = Vec::new();
    for row in rows {
        let floor = rows.iter().find(|floor| floor.section == row.section && floor.loss == row.loss);
        let Some(floor) = floor.filter(|floor| floor.name.starts_with("bare")) else { continue };
        let of = format!("{}, {} % loss, {}", row.section, row.loss, row.name);
        let mut most = |what: &str, figure: f64, most: f64| {
            lines.push(format!(
                "{of}: {what} {figure:.1}, target at most {most:.1}: {}",
                verdict(figure <= most)
            ));
        };
        match (row.section, row.name) {
            ("alone", "mesh, live" | "mesh, durable") if row.loss == 2.0 => {
                most("p50", row.p50, floor.p50 + 1.0);
                most("p99", row.p99, RTT * 1.5 + 15.0);
                most("late %", row.late, 1.5 * row.loss);
            }
            (_, "mesh, priority 1") if row.loss <= 1.0 => {
                most("p50", row.p50, floor.p50 + 10.0);
                most("p99", row.p99, floor.p50 + 100.0);
                if let Some(rate) = row.bulk_mbit.filter(|_| row.section == "bulk" && row.loss == 0.0) {
                    lines.push(format!(
                        "{of}: the transfer {rate:.1} Mbit/s, target 11.0: {}",
                        verdict(rate >= 11.0)
                    ));
                }
            }
            _ => {}
        }
    }
    if !lines.is_empty() {
        lines.insert(0, String::from("\ntargets"));
    }
    lines
}

fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "missed" }
}
