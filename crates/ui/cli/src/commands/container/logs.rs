//! `logs`: what was written, of one or many, in order of time.

use std::io::Write;
use std::pin::Pin;
use std::process::ExitCode;
use std::time::Duration;

use coppice_api::{LogLine, LogQuery, LogStream};
use coppice_client::{Client, ClientError, Lines, LogFilter};

use crate::args::LogsArgs;
use crate::daemon;
use crate::error::{CommandError, CommandResult};
use crate::output::{Paint, Style};
use crate::place::{Place, Target};
use crate::settings::Settings;

/// How long a line is held back when following several, so that a slower stream's earlier line can come first.
const MERGE_WAIT: Duration = Duration::from_millis(50);

pub(crate) async fn run(settings: &Settings, args: LogsArgs) -> CommandResult {
    let filter = LogFilter {
        query: LogQuery {
            since: args.since,
            until: args.until,
            tail: args.tail.and_then(|tail| tail.0),
            follow: args.follow,
        },
        stdout: !args.stderr,
        stderr: !args.stdout,
    };
    let place = Place::here();
    let client = daemon::client(settings).await?;
    let streams = open(&client, &place, &args.targets, &filter).await?;
    // One container needs no name before its lines; several instances do, and how many a service has is not known.
    let prefix = !args.no_prefix && (streams.len() > 1 || streams.iter().any(|(_, many)| *many));
    let mut merge = Merge::new(streams.into_iter().map(|(lines, _)| lines).collect());
    let mut printer = Printer { prefix, times: args.timestamps, style: settings.stdout, width: 0, open: [None, None] };
    let stdout = std::io::stdout();
    let mut out = std::io::BufWriter::new(stdout.lock());
    while let Some(line) = merge.next(&mut out).await? {
        if settings.json {
            let text = serde_json::to_string(&line).expect("API values are plain data");
            writeln!(out, "{text}").map_err(CommandError::Output)?;
        } else {
            printer.print(&line, &mut out).map_err(CommandError::Output)?;
        }
    }
    out.flush().map_err(CommandError::Output)?;
    Ok(ExitCode::SUCCESS)
}

/// One stream per app asked for and per container. The second value: lines of several instances may be in it.
async fn open(
    client: &Client,
    place: &Place,
    targets: &[String],
    filter: &LogFilter,
) -> Result<Vec<(Lines<LogLine>, bool)>, CommandError> {
    if targets.is_empty() {
        let app = place.app().ok_or_else(|| {
            CommandError::usage(
                "nothing is named, and there is no (right) coppice.toml in this directory",
                "name an app, APP/SERVICE or a container",
            )
        })?;
        return Ok(vec![(client.app_logs(app, &[], filter).await?, true)]);
    }
    let mut apps: Vec<(String, Vec<String>)> = Vec::new();
    let mut streams = Vec::new();
    for target in targets {
        match place.target(target)? {
            Target::Workload { app, workload } => match apps.iter_mut().find(|(name, _)| *name == app) {
                Some((_, workloads)) => workloads.push(workload),
                None => apps.push((app, vec![workload])),
            },
            Target::Container(name) => match client.container_logs(&name, filter).await {
                Ok(lines) => streams.push((lines, false)),
                Err(error) if error.not_found() => match client.app_logs(&name, &[], filter).await {
                    Ok(lines) => streams.push((lines, true)),
                    // The first answer is about what was more likely meant.
                    Err(other) if other.not_found() => return Err(error.into()),
                    Err(other) => return Err(other.into()),
                },
                Err(error) => return Err(error.into()),
            },
        }
    }
    for (app, workloads) in apps {
        streams.push((client.app_logs(&app, &workloads, filter).await?, true));
    }
    Ok(streams)
}

type LineStream = Pin<Box<dyn futures_util::Stream<Item = Result<LogLine, ClientError>>>>;

/// Streams that are each in order of time, as one that is (as far as waiting [`MERGE_WAIT`] can tell).
pub(crate) struct Merge {
    streams: Vec<(Option<LogLine>, LineStream)>,
}

impl Merge {
    pub(crate) fn new(lines: Vec<Lines<LogLine>>) -> Self {
        Self::of(lines.into_iter().map(|lines| Box::pin(lines.into_stream()) as LineStream).collect())
    }

    fn of(streams: Vec<LineStream>) -> Self {
        Self { streams: streams.into_iter().map(|stream| (None, stream)).collect() }
    }

    /// The next line; `out` is flushed before waiting for one. No line is lost when the wait is given up.
    pub(crate) async fn next(&mut self, out: &mut impl Write) -> Result<Option<LogLine>, CommandError> {
        use futures_util::StreamExt;
        use futures_util::future::{join_all, select_all};
        // First whatever is there already, or comes within the wait.
        let fill = async |streams: &mut Vec<(Option<LogLine>, LineStream)>| {
            let empty = streams.iter_mut().filter(|(head, _)| head.is_none());
            join_all(empty.map(async |(head, stream)| match stream.next().await {
                Some(Ok(line)) => {
                    *head = Some(line);
                    Ok(())
                }
                Some(Err(error)) => Err(error),
                None => Ok(()),
            }))
            .await
        };
        loop {
            // Cut short by the wait, `fill` has still kept every line it got; only ends may be seen again.
            if let Ok(results) = tokio::time::timeout(MERGE_WAIT, fill(&mut self.streams)).await {
                for result in results {
                    result?;
                }
                // Each stream has answered: those still without a line have ended.
                self.streams.retain(|(head, _)| head.is_some());
            }
            let first = self.streams.iter_mut().filter(|(head, _)| head.is_some());
            if let Some((head, _)) = first.min_by(|(a, _), (b, _)| time(a).cmp(time(b))) {
                return Ok(head.take());
            }
            if self.streams.is_empty() {
                return Ok(None);
            }
            out.flush().map_err(CommandError::Output)?;
            // Nothing anywhere: wait for one line of any stream.
            let waits = self
                .streams
                .iter_mut()
                .enumerate()
                .map(|(at, (_, stream))| Box::pin(async move { (at, stream.next().await) }));
            let ((at, line), _, rest) = select_all(waits).await;
            drop(rest);
            match line {
                Some(Ok(line)) => self.streams[at].0 = Some(line),
                Some(Err(error)) => return Err(error.into()),
                None => drop(self.streams.remove(at)),
            }
        }
    }
}

/// RFC 3339 in UTC with nanoseconds sorts as text.
fn time(line: &Option<LogLine>) -> &str {
    line.as_ref().map_or("", |line| line.time.as_str())
}

/// Lines as people read them.
pub(crate) struct Printer {
    prefix: bool,
    times: bool,
    style: Style,
    /// Longest name so far: names are padded to it.
    width: usize,
    /// Whose unfinished line the cursor is on, per stream (standard output, standard error).
    open: [Option<String>; 2],
}

/// Colours of names; a name keeps its own by its hash, whoever else is there.
const PAINTS: [Paint; 5] = [Paint::Cyan, Paint::Yellow, Paint::Green, Paint::Magenta, Paint::Blue];

impl Printer {
    /// Each line after the name of whoever wrote it.
    pub(crate) fn named(style: Style) -> Self {
        Self { prefix: true, times: false, style, width: 0, open: [None, None] }
    }

    /// Lines of one alone, as they were written.
    pub(crate) fn plain(style: Style) -> Self {
        Self { prefix: false, ..Self::named(style) }
    }

    pub(crate) fn print(&mut self, line: &LogLine, out: &mut impl Write) -> std::io::Result<()> {
        let text = self.render(line);
        // Standard error's lines go to standard error, as docker's do, unless names tell them apart anyway.
        if line.stream == LogStream::Stderr && !self.prefix {
            out.flush()?;
            return std::io::stderr().write_all(text.as_bytes());
        }
        out.write_all(text.as_bytes())
    }

    fn render(&mut self, line: &LogLine) -> String {
        let which = usize::from(line.stream == LogStream::Stderr);
        let goes_on = !self.prefix && self.open[which].as_deref() == Some(line.source.as_str());
        let mut text = String::new();
        if !goes_on {
            if self.prefix {
                self.width = self.width.max(line.source.chars().count());
                let name = format!("{:width$} |", line.source, width = self.width);
                text.push_str(&self.style.paint(paint_of(&line.source), &name));
                text.push(' ');
            }
            if self.times {
                text.push_str(&self.style.paint(Paint::Dim, &line.time));
                text.push(' ');
            }
        }
        text.push_str(&line.text);
        // A part of a long line ends without a line end only where nothing else can come between.
        if line.partial && !self.prefix {
            self.open[which] = Some(line.source.clone());
        } else {
            self.open[which] = None;
            text.push('\n');
        }
        text
    }
}

fn paint_of(name: &str) -> Paint {
    // FNV-1a: the same in every run and build.
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    PAINTS[(hash % PAINTS.len() as u64) as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(source: &str, second: u32, text: &str) -> LogLine {
        LogLine {
            source: source.into(),
            stream: LogStream::Stdout,
            time: format!("2026-01-01T00:00:{second:02}.000000000Z"),
            text: text.into(),
            partial: false,
        }
    }

    fn stream(lines: Vec<LogLine>) -> LineStream {
        Box::pin(futures_util::stream::iter(lines.into_iter().map(Ok)))
    }

    #[tokio::test]
    async fn lines_of_several_streams_come_in_order_of_time() {
        let mut merge = Merge::of(vec![
            stream(vec![line("a", 1, "1"), line("a", 4, "4")]),
            stream(vec![line("b", 2, "2"), line("b", 3, "3"), line("b", 5, "5")]),
            stream(vec![]),
        ]);
        let mut texts = String::new();
        while let Some(line) = merge.next(&mut Vec::new()).await.unwrap() {
            texts.push_str(&line.text);
        }
        assert_eq!(texts, "12345");
    }

    #[tokio::test]
    async fn a_quiet_stream_does_not_hold_the_others_back() {
        let quiet: LineStream = Box::pin(futures_util::stream::pending());
        let mut merge = Merge::of(vec![quiet, stream(vec![line("b", 1, "1"), line("b", 2, "2")])]);
        assert_eq!(merge.next(&mut Vec::new()).await.unwrap().unwrap().text, "1");
        assert_eq!(merge.next(&mut Vec::new()).await.unwrap().unwrap().text, "2");
    }

    #[tokio::test]
    async fn a_stream_that_breaks_is_an_error() {
        let broken: LineStream = Box::pin(futures_util::stream::iter([Err(ClientError::Lost { what: "cut".into() })]));
        assert!(Merge::of(vec![broken]).next(&mut Vec::new()).await.is_err());
    }

    #[test]
    fn names_are_padded_and_keep_their_colour() {
        let style = Style { color: true, terminal: true, json: false };
        let mut printer = Printer { prefix: true, times: false, style, width: 0, open: [None, None] };
        let long = printer.render(&line("worker-1", 1, "x"));
        let short = printer.render(&line("db", 1, "y"));
        assert!(long.ends_with("\x1b[0m x\n") && long.contains("worker-1 |"), "{long:?}");
        assert!(short.contains("db       |"), "{short:?}");
        assert_eq!(short, printer.render(&line("db", 1, "y")));
        assert_ne!(paint_of("web-1"), paint_of("web-2"));
    }

    #[test]
    fn without_colour_only_text_is_written() {
        let mut printer = Printer { prefix: true, times: true, style: Style::plain(), width: 0, open: [None, None] };
        assert_eq!(printer.render(&line("db", 1, "y")), "db | 2026-01-01T00:00:01.000000000Z y\n");
    }

    #[test]
    fn a_long_line_is_put_together_again() {
        let mut printer = Printer { prefix: false, times: true, style: Style::plain(), width: 0, open: [None, None] };
        let mut part = line("db", 1, "one ");
        part.partial = true;
        let mut text = printer.render(&part);
        text.push_str(&printer.render(&line("db", 2, "line")));
        assert_eq!(text, "2026-01-01T00:00:01.000000000Z one line\n");
    }
}
