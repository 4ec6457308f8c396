//! The README's chart: start to exit as horizontal bars on a logarithmic scale, so that 3 ms and 300 ms both can be
//! read. It is drawn from the committed results and from nothing else.

use std::fmt::Write;

use super::figures::Report;

const WIDTH: f64 = 760.0;
const LEFT: f64 = 150.0;
const RIGHT: f64 = 70.0;
const BAR: f64 = 20.0;
const STEP: f64 = 28.0;

/// The chart as a standalone SVG with its own background, readable on light and dark pages.
pub(super) fn draw(report: &Report) -> String {
    let figures = ["start to exit, no network", "start to exit, bridge network"];
    let most = report.rows.iter().filter(|row| figures.contains(&row.figure.as_str())).map(|row| row.median);
    let scale = most.fold(10.0, f64::max).log10().ceil();
    let mut body = String::new();
    let mut y = 34.0;
    for figure in figures {
        let mut rows: Vec<_> = report.rows.iter().filter(|row| row.figure == figure).collect();
        if rows.is_empty() {
            continue;
        }
        rows.sort_by(|a, b| a.median.total_cmp(&b.median));
        let _ = writeln!(
            body,
            "<text x=\"16\" y=\"{y}\" font-weight=\"600\">{} (ms, less is better)</text>",
            escape(figure)
        );
        y += 12.0;
        for row in rows {
            let length = (row.median.max(1.0).log10() / scale * (WIDTH - LEFT - RIGHT)).max(2.0);
            let colour = if row.contender == "coppice" { "#2f7d4f" } else { "#9aa5a0" };
            let (text, end) = (y + 15.0, LEFT + length + 6.0);
            let _ = writeln!(
                body,
                "<text x=\"{}\" y=\"{text}\" text-anchor=\"end\">{}</text>\
                 <rect x=\"{LEFT}\" y=\"{y}\" width=\"{length:.1}\" height=\"{BAR}\" rx=\"3\" fill=\"{colour}\"/>\
                 <text x=\"{end:.1}\" y=\"{text}\">{:.1}</text>",
                LEFT - 8.0,
                escape(&row.contender),
                row.median
            );
            y += STEP;
        }
        y += 28.0;
    }
    let note = format!(
        "{}, {} cores, Linux {}, {}; logarithmic scale",
        report.machine.cpu, report.machine.cores, report.machine.kernel, report.date
    );
    let _ = writeln!(body, "<text x=\"16\" y=\"{y}\" fill=\"#5a6661\" font-size=\"11\">{}</text>", escape(&note));
    let height = y + 16.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" font-family=\"system-ui, sans-serif\" font-size=\"13\" fill=\"#1d2521\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" rx=\"8\" fill=\"#f6f8f7\"/>\n{body}</svg>\n"
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::figures::tests::report;

    #[test]
    fn each_contender_has_a_bar_and_a_longer_time_a_longer_one() {
        let figure = "start to exit, no network";
        let svg = draw(&report(&[(figure, "runc & co", 24.0), (figure, "coppice", 5.0)]));
        assert!(svg.contains("runc &amp; co") && svg.contains(">24.0<"), "{svg}");
        let widths: Vec<f64> = svg
            .split("rx=\"3\"")
            .filter_map(|part| part.rsplit_once("width=\"")?.1.split('"').next()?.parse().ok())
            .collect();
        assert!(widths.len() >= 2 && widths[0] < widths[1], "{widths:?}");
    }
}
