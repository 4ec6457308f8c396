//! `images`: a table of images.

use std::process::ExitCode;

use coppice_api::ImageSummary;
use coppice_base::{Bytes, Clock, SystemClock, Timestamp};

use crate::args::ImagesArgs;
use crate::daemon;
use crate::error::CommandResult;
use crate::output::{Table, ago, short_digest};
use crate::settings::Settings;

pub(crate) async fn run(settings: &Settings, args: ImagesArgs) -> CommandResult {
    let images = daemon::client(settings).await?.images().await?;
    if settings.json {
        settings.print_json(&images)?;
    } else if args.quiet {
        let ids: String = images.iter().map(|image| format!("{}\n", id(image, args.no_trunc))).collect();
        settings.print(&ids)?;
    } else {
        settings.print(&table(&images, args.no_trunc, SystemClock.now()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn id(image: &ImageSummary, whole: bool) -> &str {
    if whole { &image.id } else { short_digest(&image.id) }
}

/// One row per name, as docker does; an image without one has one row.
fn table(images: &[ImageSummary], whole: bool, now: Timestamp) -> String {
    let mut table = Table::new(&["IMAGE", "TAG", "IMAGE ID", "CREATED", "SIZE", "USED BY"]);
    for image in images {
        let mut row = |name: &str, tag: &str| {
            table.row(vec![
                name.to_owned(),
                tag.to_owned(),
                id(image, whole).to_owned(),
                if image.created_at == Timestamp::ZERO { "-".to_owned() } else { ago(image.created_at, now) },
                Bytes(image.size_bytes).to_string(),
                image.containers.to_string(),
            ]);
        };
        for name in &image.names {
            let (repository, tag) = split(name);
            row(&familiar(repository), tag);
        }
        if image.names.is_empty() {
            row("<none>", "<none>");
        }
    }
    table.render()
}

/// Repository and tag (or digest) of a reference.
fn split(name: &str) -> (&str, &str) {
    if let Some((repository, _)) = name.split_once('@') {
        return (repository, "<none>");
    }
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (name, "<none>"),
    }
}

/// `docker.io/library/redis` is shown as `redis`, as people write it.
fn familiar(repository: &str) -> String {
    let rest = repository.strip_prefix("docker.io/");
    rest.map_or(repository, |rest| rest.strip_prefix("library/").unwrap_or(rest)).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_have_a_row_for_each_name() {
        let image = |names: &[&str]| ImageSummary {
            id: format!("sha256:{}", "ab".repeat(32)),
            manifest_digest: String::new(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            size_bytes: 3 << 20,
            created_at: Timestamp(0),
            containers: 2,
        };
        let images = [image(&["docker.io/library/redis:7", "localhost:5000/redis:x"]), image(&[])];
        insta::assert_snapshot!(table(&images, false, Timestamp(1)), @r"
        IMAGE                 TAG     IMAGE ID      CREATED  SIZE  USED BY
        redis                 7       abababababab  -        3MiB  2
        localhost:5000/redis  x       abababababab  -        3MiB  2
        <none>                <none>  abababababab  -        3MiB  2
        ");
    }
}
