//! Verbs on images and registries.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use coppice_base::Bytes;

use super::values;

#[allow(clippy::large_enum_variant)] // one per process
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum ImageVerb {
    /// List images
    #[command(visible_alias = "list")]
    Ls(ImagesArgs),
    /// Fetch images from their registries
    Pull(PullArgs),
    /// Send images to their registries
    Push(PushArgs),
    /// Give an image another name
    Tag(TagArgs),
    /// Show all there is to say about images, as JSON
    Inspect(NamesArgs),
    /// Remove image names, and images that have none left
    Rm(RmiArgs),
    /// Make an image of a root filesystem's tar
    Import(ImportArgs),
    /// Write an image's root filesystem as one tar
    Export(ExportArgs),
    /// Write images to an archive
    Save(SaveArgs),
    /// Take images in from an archive
    Load(LoadArgs),
    /// Remove images nothing uses
    Prune(PruneArgs),
}

#[derive(Args, Debug)]
pub(crate) struct ImagesArgs {
    /// Only ids
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Do not shorten ids
    #[arg(long)]
    pub(crate) no_trunc: bool,
}

#[derive(Args, Debug)]
pub(crate) struct NamesArgs {
    /// Images: references, ids or starts of ids
    #[arg(required = true, value_name = "IMAGE")]
    pub(crate) names: Vec<String>,
}

/// Names and passwords are docker's: `coppice login`, config.json (DOCKER_CONFIG), credential helpers.
#[derive(Args, Debug)]
pub(crate) struct PullArgs {
    /// Do not ask the registry when the image is here
    #[arg(long)]
    pub(crate) missing: bool,
    /// Allow plain HTTP and TLS that cannot be verified
    #[arg(long)]
    pub(crate) insecure: bool,
    /// Print only the image's id
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) images: NamesArgs,
}

#[derive(Args, Debug)]
pub(crate) struct PushArgs {
    /// Allow plain HTTP and TLS that cannot be verified
    #[arg(long)]
    pub(crate) insecure: bool,
    /// Print only the manifest's digest
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Image
    pub(crate) image: String,
    /// Reference to push it as [default: the image's own]
    pub(crate) target: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct TagArgs {
    /// Image: reference, id or start of an id
    pub(crate) source: String,
    /// Name to give it
    pub(crate) target: String,
}

#[derive(Args, Debug)]
pub(crate) struct RmiArgs {
    /// Named by its id: remove it with all its names, however many. One that a container has is never removed
    #[arg(short, long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) images: NamesArgs,
}

#[derive(Args, Debug)]
pub(crate) struct ImportArgs {
    /// Command the image runs: a JSON list (`["nginx","-g","daemon off;"]`), or words for /bin/sh
    #[arg(long, value_name = "COMMAND", value_parser = values::command)]
    pub(crate) cmd: Option<values::CommandWords>,
    /// Entry point of the image, written like --cmd
    #[arg(long, value_name = "COMMAND", value_parser = values::command)]
    pub(crate) entrypoint: Option<values::CommandWords>,
    /// Environment of the image
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = values::env)]
    pub(crate) env: Vec<values::Env>,
    /// Working directory of the image
    #[arg(short, long, value_name = "DIR", value_parser = values::absolute)]
    pub(crate) workdir: Option<String>,
    /// User of the image
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub(crate) user: Option<String>,
    /// Image of the node that the tar goes on top of, with its configuration
    #[arg(long, value_name = "IMAGE")]
    pub(crate) base: Option<String>,
    /// Tar of a root filesystem (plain, gzip or zstd); `-` is standard input
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Name of the image
    #[arg(value_name = "IMAGE")]
    pub(crate) name: String,
}

#[derive(Args, Debug)]
pub(crate) struct ExportArgs {
    /// File to write [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Image: reference, id or start of an id
    #[arg(value_name = "IMAGE")]
    pub(crate) name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ArchiveFormat {
    /// What `docker load` takes
    Docker,
    /// An OCI image layout
    Oci,
}

impl ArchiveFormat {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Oci => "oci",
        }
    }
}

#[derive(Args, Debug)]
pub(crate) struct SaveArgs {
    /// File to write [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Form of the archive
    #[arg(long, value_enum, default_value = "docker")]
    pub(crate) format: ArchiveFormat,
    #[command(flatten)]
    pub(crate) images: NamesArgs,
}

#[derive(Args, Debug)]
pub(crate) struct LoadArgs {
    /// Archive [default: standard input]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) input: Option<PathBuf>,
    /// Print only ids
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// Never removes what a container or a release uses.
#[derive(Args, Debug)]
pub(crate) struct PruneArgs {
    /// Also images that have a name
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Stop as soon as the store is no larger than this
    #[arg(long, value_name = "SIZE")]
    pub(crate) budget: Option<Bytes>,
}

#[derive(Args, Debug)]
pub(crate) struct LoginArgs {
    /// Name
    #[arg(short, long, value_name = "NAME")]
    pub(crate) username: Option<String>,
    /// Read the password from standard input
    #[arg(long)]
    pub(crate) password_stdin: bool,
    /// Registry, such as ghcr.io
    #[arg(default_value = "docker.io")]
    pub(crate) registry: String,
}

#[derive(Args, Debug)]
pub(crate) struct LogoutArgs {
    /// Registry, such as ghcr.io
    #[arg(default_value = "docker.io")]
    pub(crate) registry: String,
}
