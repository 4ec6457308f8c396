//! `events`: what happens on the node, one line each.

use std::process::ExitCode;

use coppice_api::Event;
use coppice_base::Timestamp;

use crate::args::EventsArgs;
use crate::daemon;
use crate::error::CommandResult;
use crate::output::{Paint, Style, moment, visible};
use crate::settings::Settings;

pub(crate) async fn run(settings: &Settings, args: EventsArgs) -> CommandResult {
    let client = daemon::client(settings).await?;
    // Without a moment to begin at, what has happened so far is all that the node remembers.
    let since = args.since.or(args.no_follow.then_some(Timestamp::ZERO));
    let mut events = client.events(since, !args.no_follow, args.app.as_deref()).await?;
    while let Some(event) = events.next().await? {
        if settings.json {
            settings.print_json_line(&event)?;
        } else {
            settings.print(&line(&event, &settings.stdout))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn line(event: &Event, style: &Style) -> String {
    let id = event.id.get(..12).filter(|_| event.object == "container").unwrap_or(&event.id);
    let mut text = format!(
        "{} {} {} {}",
        style.paint(Paint::Dim, &moment(event.at)),
        visible(&event.object),
        style.paint(Paint::Bold, &visible(&event.action)),
        visible(id)
    );
    let details = [("name", &event.name), ("app", &event.app)];
    let details: Vec<String> = details
        .iter()
        .filter_map(|(key, value)| value.as_ref().map(|value| format!("{key}={}", visible(value))))
        .collect();
    if !details.is_empty() {
        text.push_str(&format!(" ({})", details.join(", ")));
    }
    if !event.message.is_empty() {
        text.push_str(&format!(": {}", visible(&event.message)));
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_whatever_is_in_it() {
        let event = Event {
            at: Timestamp(1_700_000_000_000),
            object: "container".into(),
            action: "exit".into(),
            id: "0123456789abcdef".into(),
            name: Some("web-1".into()),
            app: Some("shop".into()),
            message: "exited with\ncode 1".into(),
        };
        let want =
            "2023-11-14T22:13:20.000Z container exit 0123456789ab (name=web-1, app=shop): exited with\\ncode 1\n";
        assert_eq!(line(&event, &Style::plain()), want);
    }
}
