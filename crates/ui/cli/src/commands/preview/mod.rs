//! Verbs on previews.

pub(super) mod end;
pub(super) mod list;
pub(super) mod up;

use coppice_api::PreviewSummary;
use coppice_client::Client;

use crate::error::CommandError;

/// The preview that is meant by NAME, APP/NAME, or the name of the app that it is.
async fn find(client: &Client, text: &str) -> Result<PreviewSummary, CommandError> {
    chosen(client.previews().await?, text)
}

fn chosen(all: Vec<PreviewSummary>, text: &str) -> Result<PreviewSummary, CommandError> {
    let is_meant = |preview: &PreviewSummary| match text.split_once('/') {
        Some((of, name)) => preview.of.as_str() == of && preview.name.as_str() == name,
        None => preview.name.as_str() == text || preview.app.as_str() == text,
    };
    let mut meant: Vec<PreviewSummary> = all.into_iter().filter(is_meant).collect();
    match meant.len() {
        1 => Ok(meant.remove(0)),
        0 => Err(CommandError::Failed {
            what: format!("there is no preview {text:?}"),
            help: Some("`coppice preview ls` lists those there are".to_owned()),
        }),
        _ => {
            let names: Vec<String> = meant.iter().map(|one| format!("{}/{}", one.of, one.name)).collect();
            Err(CommandError::usage(
                format!("there are {} previews {text:?}", names.len()),
                format!("write {}", names.join(" or ")),
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use coppice_base::{Name, Timestamp};

    use super::*;

    fn preview(of: &str, name: &str) -> PreviewSummary {
        let name_of = |text: &str| Name::new(text).unwrap();
        PreviewSummary {
            app: name_of(&format!("{of}-{name}")),
            of: name_of(of),
            name: name_of(name),
            until: Timestamp(0),
            release: 1,
            state: "ready".to_owned(),
            hosts: Vec::new(),
        }
    }

    #[test]
    fn a_preview_is_meant_by_its_name_its_apps_name_or_both() {
        let all = || vec![preview("shop", "fix"), preview("blog", "fix"), preview("blog", "new")];
        let app = |text: &str| chosen(all(), text).map(|one| one.app.to_string());
        for (text, meant) in [("new", "blog-new"), ("shop/fix", "shop-fix"), ("blog-fix", "blog-fix")] {
            assert_eq!(app(text).unwrap(), meant);
        }
        assert!(matches!(app("fix"), Err(CommandError::Usage { .. })), "two are called so");
        for text in ["", "x", "shop/new", "/fix"] {
            assert!(matches!(app(text), Err(CommandError::Failed { .. })), "{text}");
        }
    }
}
