//! Queries of unusual shape: a whole parser judges whether they are well-formed.
//!
//! Signed ones (TSIG, SIG(0)), ones with records beside the question, and the like. The question is then answered as
//! any other; what came with it is not acted upon.

use hickory_proto::op::Message;
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

use crate::query::{Code, Edns, Query, Reject};

/// Judges a packet in which the strict parser found `query` and then more than it takes.
pub(crate) fn judge(packet: &[u8], query: Query) -> Result<Query, Reject> {
    let malformed = Reject::Code(Code::FormErr);
    let mut decoder = BinDecoder::new(packet);
    let message = Message::read(&mut decoder).map_err(|_| malformed)?;
    if !decoder.is_empty() {
        return Err(malformed);
    }
    let edns = message.edns.as_ref().map(|edns| Edns {
        payload: edns.max_payload(),
        version: edns.version(),
        dnssec_ok: edns.flags().dnssec_ok,
    });
    Ok(Query { edns, ..query })
}
