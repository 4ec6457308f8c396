//! Prometheus' text format, version 0.0.4: each name with its HELP and TYPE, then its samples, a line each. By hand: the
//! format is lines.

use std::fmt::Write;

use super::{Family, Labels, Samples, Value, and, seconds};

/// What Prometheus is told that it gets.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(crate) fn write(families: &[Family]) -> String {
    let mut text = Text(String::new());
    for Family { name, help, samples } in families {
        let kind = match samples {
            Samples::Counter(_) => "counter",
            Samples::Gauge(_) => "gauge",
            Samples::Histogram(_) => "histogram",
        };
        let _ = writeln!(text.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        match samples {
            Samples::Counter(samples) | Samples::Gauge(samples) => {
                samples.iter().for_each(|(labels, value)| text.sample(name, labels, value));
            }
            Samples::Histogram(samples) => {
                let (buckets, sum, count) = (format!("{name}_bucket"), format!("{name}_sum"), format!("{name}_count"));
                for (labels, histogram) in samples {
                    for bucket in &histogram.buckets {
                        let labels = and(labels.clone(), "le", &seconds(bucket.le_us));
                        text.sample(&buckets, &labels, &bucket.count.into());
                    }
                    text.sample(&buckets, &and(labels.clone(), "le", "+Inf"), &histogram.count.into());
                    text.sample(&sum, labels, &Value::Seconds(histogram.sum_us));
                    text.sample(&count, labels, &histogram.count.into());
                }
            }
        }
    }
    text.0
}

/// The text as far as it is written. Writing to a String cannot fail.
struct Text(String);

impl Text {
    fn sample(&mut self, name: &str, labels: &Labels, value: &Value) {
        self.0.push_str(name);
        for (at, (key, text)) in labels.iter().enumerate() {
            let open = if at == 0 { '{' } else { ',' };
            let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{open}{key}=\"{escaped}\"");
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }
}
