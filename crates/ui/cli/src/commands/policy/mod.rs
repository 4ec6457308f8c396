//! Verbs on who may speak to whom.

pub(crate) mod list;
pub(crate) mod remove;
pub(crate) mod set;

use coppice_spec::Party;

use crate::args::PolicyPairArgs;
use crate::error::CommandError;
use crate::place::Place;

/// The two sides of a rule, as the node knows them.
fn pair(args: &PolicyPairArgs) -> Result<(Party, Party), CommandError> {
    let place = Place::here();
    Ok((place.party(&args.from)?, place.party(&args.to)?))
}
