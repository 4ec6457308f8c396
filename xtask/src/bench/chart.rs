//! The charts of the documentation, as horizontal bars: start to exit on a logarithmic scale, so that 3 ms and 300 ms both
//! can be read, and the rates of traffic. They are drawn from the committed results and from nothing else.

use std::fmt::Write;

use super::figures::Report;

const WIDTH: f64 = 760.0;
const LEFT: f64 = 150.0;
const RIGHT: f64 = 70.0;
const BAR: f64 = 20.0;
const STEP: f64 = 28.0;

/// Where a bar of some value ends.
#[derive(Clone, Copy, PartialEq)]
enum Scale {
    /// One for all figures, from 1.
    Logarithmic,
    /// Each figure has its own, from 0 to its largest value.
    Linear,
}

/// Start to exit, as a standalone SVG with its own background, readable on light and dark pages.
pub(super) fn starts(report: &Report) -> String {
    let figures = ["start to exit, no network", "start to exit, bridge network"];
    draw(report, &figures.map(|figure| (figure, "less is better")), Scale::Logarithmic)
}

/// The rates of traffic, in the same way.
pub(super) fn traffic(report: &Report) -> String {
    let mut figures: Vec<(&str, &str)> = Vec::new();
    for row in report.rows.iter().filter(|row| ["per second", "MB/s"].contains(&row.unit)) {
        if figures.iter().all(|(known, _)| *known != row.figure) {
            figures.push((&row.figure, "more is better"));
        }
    }
    draw(report, &figures, Scale::Linear)
}

fn draw(report: &Report, figures: &[(&str, &str)], scale: Scale) -> String {
    let of = |figure: &str| report.rows.iter().filter(move |row| row.figure == figure).collect::<Vec<_>>();
    let most = figures.iter().flat_map(|(figure, _)| of(figure)).map(|row| row.median);
    let decades = most.fold(10.0, f64::max).log10().ceil();
    let mut body = String::new();
    let mut y = 34.0;
    for (figure, better) in figures {
        let mut rows = of(figure);
        let Some(unit) = rows.first().map(|row| row.unit) else { continue };
        rows.sort_by(|a, b| a.median.total_cmp(&b.median));
        if scale == Scale::Linear {
            rows.reverse();
        }
        let _ =
            writeln!(body, "<text x=\"16\" y=\"{y}\" font-weight=\"600\">{} ({unit}, {better})</text>", escape(figure));
        y += 12.0;
        let most = rows.iter().map(|row| row.median).fold(f64::MIN_POSITIVE, f64::max);
        for row in rows {
            let share = match scale {
                Scale::Logarithmic => row.median.max(1.0).log10() / decades,
                Scale::Linear => row.median / most,
            };
            let length = (share * (WIDTH - LEFT - RIGHT)).max(2.0);
            let colour = if row.contender == "coppice" { "#2f7d4f" } else { "#9aa5a0" };
            let (text, end) = (y + 15.0, LEFT + length + 6.0);
            let digits = if row.median < 1000.0 { 1 } else { 0 };
            let _ = writeln!(
                body,
                "<text x=\"{}\" y=\"{text}\" text-anchor=\"end\">{}</text>\
                 <rect x=\"{LEFT}\" y=\"{y}\" width=\"{length:.1}\" height=\"{BAR}\" rx=\"3\" fill=\"{colour}\"/>\
                 <text x=\"{end:.1}\" y=\"{text}\">{:.digits$}</text>",
                LEFT - 8.0,
                escape(&row.contender),
                row.median
            );
            y += STEP;
        }
        y += 28.0;
    }
    let note = format!(
        "{}, {} cores, Linux {}, {}{}",
        report.machine.cpu,
        report.machine.cores,
        report.machine.kernel,
        report.date,
        if scale == Scale::Logarithmic { "; logarithmic scale" } else { "" }
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
    use crate::bench::figures::Row;
    use crate::bench::figures::tests::report;

    #[test]
    fn each_contender_has_a_bar_and_a_longer_time_a_longer_one() {
        let figure = "start to exit, no network";
        let svg = starts(&report(&[(figure, "runc & co", 24.0), (figure, "coppice", 5.0)]));
        assert!(svg.contains("runc &amp; co") && svg.contains(">24.0<"), "{svg}");
        let widths = widths(&svg);
        assert!(widths.len() == 2 && widths[0] < widths[1], "{widths:?}");
    }

    #[test]
    fn each_rate_has_a_scale_of_its_own_and_what_is_no_rate_has_no_bar() {
        let mut report = report(&[("a", "coppice", 50_000.0), ("a", "nginx", 100_000.0), ("b", "coppice", 3.0)]);
        report.rows.iter_mut().for_each(|row| row.unit = "per second");
        report.rows.push(Row::of("c", "coppice", "ms", &[1.0]));
        let svg = traffic(&report);
        let widths = widths(&svg);
        assert!(widths.len() == 3 && (widths[1] - widths[0] / 2.0).abs() < 0.1 && widths[2] == widths[0], "{widths:?}");
        assert!(svg.contains(">100000<") && svg.contains("more is better"), "{svg}");
    }

    /// Of the bars, from the top.
    fn widths(svg: &str) -> Vec<f64> {
        let bars = svg.split("rx=\"3\"").filter(|part| part.contains("<rect"));
        let width = |part: &str| part.rsplit_once("<rect")?.1.split_once("width=\"")?.1.split('"').next()?.parse().ok();
        bars.filter_map(width).filter(|width| *width < WIDTH).collect()
    }
}
