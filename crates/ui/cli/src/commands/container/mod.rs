//! Verbs on containers.

pub(crate) mod attach;
pub(crate) mod cp;
pub(crate) mod create;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod inspect;
pub(crate) mod kill;
pub(crate) mod logs;
pub(crate) mod pause;
pub(crate) mod ps;
pub(crate) mod restart;
pub(crate) mod rm;
pub(crate) mod run;
pub(crate) mod start;
pub(crate) mod stats;
pub(crate) mod stop;
pub(crate) mod top;
pub(crate) mod wait;
