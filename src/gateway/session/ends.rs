//! How sessions end, by what is known of it.

use super::End;
use crate::wire::close::{CloseCode, Refusal};

/// With a code, and without an ERROR before it.
pub(super) fn silent_end(code: CloseCode, reason: String) -> End {
    End { code: Some(code), refusal: None, reason }
}

/// The connection is gone: there is nobody to tell.
pub(super) fn lost_end(reason: String) -> End {
    End { code: None, refusal: None, reason }
}

/// With what was refused.
pub(super) fn refused_end(refusal: Refusal) -> End {
    let (code, reason) = (CloseCode::for_refusal(refusal.code), refusal.message.clone());
    End { code: Some(code), refusal: Some(refusal), reason }
}

/// This process ends.
pub(super) fn stopping() -> End {
    silent_end(CloseCode::Restart, "retry_after_ms=1000".into())
}
