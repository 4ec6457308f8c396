//! Verbs on crons.

pub(crate) mod run;
pub(crate) mod show;

use coppice_api::CronResult;

/// The word for a result.
fn word(result: CronResult) -> &'static str {
    match result {
        CronResult::Succeeded => "succeeded",
        CronResult::Failed => "failed",
        CronResult::Replaced => "replaced",
        CronResult::Stopped => "stopped",
        CronResult::Skipped => "skipped",
        CronResult::Missed => "missed",
    }
}
