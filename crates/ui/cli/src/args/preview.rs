//! `up --preview`, and verbs on previews.

use std::time::Duration;

use clap::{Args, Subcommand};
use coppice_base::{Bytes, MilliCpu};

use super::values;

/// Flags of `up`.
#[derive(Args, Debug)]
pub(crate) struct PreviewArgs {
    /// Leave the app as it is, and stand this release beside it for a time: on clones of its volumes, answering for NAME.HOST
    /// where the app answers for HOST
    #[arg(long, value_name = "NAME", conflicts_with_all = ["dev", "dry_run"])]
    pub(crate) preview: Option<String>,
    /// How long the preview stands; another `up --preview` begins its time anew [default: 1d]
    #[arg(long = "for", value_name = "DURATION", value_parser = values::duration, requires = "preview")]
    pub(crate) time: Option<Duration>,
    /// Most CPU that each instance of the preview gets, in cores, such as 0.5
    #[arg(long, value_name = "CORES", requires = "preview")]
    pub(crate) cpus: Option<MilliCpu>,
    /// Most memory that each instance of the preview gets, such as 128m
    #[arg(long, value_name = "SIZE", requires = "preview")]
    pub(crate) memory: Option<Bytes>,
}

/// A preview is an app of its own, called APP-NAME: `status`, `logs`, `exec` and the others work on it. `coppice up --preview
/// NAME` makes one.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum PreviewVerb {
    /// List previews
    #[command(visible_alias = "list")]
    Ls,
    /// Have the app become what its preview is. The app keeps its own data; the preview and its data go
    Promote(PreviewNameArgs),
    /// Remove a preview and its data
    #[command(visible_alias = "rm")]
    Discard(PreviewNameArgs),
}

#[derive(Args, Debug)]
pub(crate) struct PreviewNameArgs {
    /// NAME; APP/NAME where several apps have one of that name
    #[arg(value_name = "PREVIEW")]
    pub(crate) preview: String,
}
