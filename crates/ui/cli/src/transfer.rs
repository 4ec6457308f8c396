//! Pulls and pushes as the caller sees them: credentials found, progress shown.
//!
//! On a terminal there is a bar per layer; in a pipe, a line when a layer begins and when it is done.

use std::collections::HashMap;

use coppice_api::{LayerProgress, LayerState, PullRequest, PushRequest, TransferLine};
use coppice_client::{Client, ClientError, Lines};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::error::{CommandError, eprint_all};
use crate::login;
use crate::output::{Style, short_digest};
use crate::settings::Settings;

/// What a pull or push ended with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Transferred {
    /// Of the config.
    pub(crate) id: String,
    /// Of the manifest.
    pub(crate) digest: String,
}

/// Fetches an image. `always`: asks the registry also when it is here.
pub(crate) async fn pull(
    settings: &Settings,
    client: &Client,
    image: &str,
    always: bool,
    insecure: bool,
) -> Result<Transferred, CommandError> {
    let login = login::find(image, &settings.stderr);
    let request = PullRequest { reference: image.to_owned(), always, insecure, login };
    follow(client.pull(&request).await?, &settings.stderr, image).await
}

/// Sends an image.
pub(crate) async fn push(
    settings: &Settings,
    client: &Client,
    image: &str,
    target: Option<&str>,
    insecure: bool,
) -> Result<Transferred, CommandError> {
    let login = login::find(target.unwrap_or(image), &settings.stderr);
    let target = target.map(str::to_owned);
    let request = PushRequest { reference: image.to_owned(), target, insecure, login };
    follow(client.push(&request).await?, &settings.stderr, image).await
}

async fn follow(mut lines: Lines<TransferLine>, style: &Style, image: &str) -> Result<Transferred, CommandError> {
    let mut progress = Progress::new(style);
    while let Some(line) = lines.next().await? {
        match line {
            TransferLine::Layer(layer) => progress.layer(&layer),
            TransferLine::Done { id, digest } => return Ok(Transferred { id, digest }),
            TransferLine::Error(error) => return Err(ClientError::Api(error).into()),
        }
    }
    Err(ClientError::Lost { what: format!("the transfer of {image} ended without a result") }.into())
}

/// What is shown while it goes on.
enum Progress {
    Bars { all: MultiProgress, bars: HashMap<String, ProgressBar> },
    Lines(HashMap<String, LayerState>),
}

impl Progress {
    fn new(style: &Style) -> Self {
        if style.terminal {
            Self::Bars { all: MultiProgress::new(), bars: HashMap::new() }
        } else {
            Self::Lines(HashMap::new())
        }
    }

    fn layer(&mut self, layer: &LayerProgress) {
        match self {
            Self::Bars { all, bars } => {
                let bar = bars.entry(layer.digest.clone()).or_insert_with(|| {
                    let bar = all.add(ProgressBar::new(layer.total_bytes));
                    let shape = ProgressStyle::with_template(
                        "{prefix} {msg:11} [{bar:30}] {binary_bytes:>10}/{binary_total_bytes:10}",
                    );
                    bar.set_style(shape.expect("the template is right").progress_chars("=> "));
                    bar.set_prefix(short_digest(&layer.digest).to_owned());
                    bar
                });
                bar.set_length(layer.total_bytes);
                bar.set_position(layer.done_bytes);
                bar.set_message(word(layer.state));
                if matches!(layer.state, LayerState::Done | LayerState::Exists) {
                    bar.set_position(layer.total_bytes);
                    bar.abandon();
                }
            }
            Self::Lines(seen) => {
                if let Some(line) = change(seen, layer) {
                    eprint_all(&line);
                }
            }
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Self::Bars { bars, .. } = self {
            // What was there when it ended stays on the screen, also after an error.
            bars.values().for_each(ProgressBar::abandon);
        }
    }
}

/// The line for a layer whose state is another than before.
fn change(seen: &mut HashMap<String, LayerState>, layer: &LayerProgress) -> Option<String> {
    if layer.state == LayerState::Waiting || seen.insert(layer.digest.clone(), layer.state) == Some(layer.state) {
        return None;
    }
    Some(format!("{} {}\n", short_digest(&layer.digest), word(layer.state)))
}

fn word(state: LayerState) -> &'static str {
    match state {
        LayerState::Waiting => "waiting",
        LayerState::Downloading => "downloading",
        LayerState::Unpacking => "unpacking",
        LayerState::Uploading => "uploading",
        LayerState::Done => "done",
        LayerState::Exists => "is there",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_gets_one_line_for_each_change_of_a_layer() {
        let layer = |state, done_bytes| LayerProgress {
            digest: format!("sha256:{}", "0f".repeat(32)),
            state,
            done_bytes,
            total_bytes: 100,
        };
        let mut seen = HashMap::new();
        let lines: Vec<_> = [
            layer(LayerState::Waiting, 0),
            layer(LayerState::Downloading, 0),
            layer(LayerState::Downloading, 50),
            layer(LayerState::Unpacking, 100),
            layer(LayerState::Done, 100),
        ]
        .iter()
        .filter_map(|layer| change(&mut seen, layer))
        .collect();
        assert_eq!(lines, ["0f0f0f0f0f0f downloading\n", "0f0f0f0f0f0f unpacking\n", "0f0f0f0f0f0f done\n"]);
    }
}
