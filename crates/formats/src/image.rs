//! What nodes ask each other while a user moves: the source's image, record by record, and whether bodies are there.

use parliament_ids::{AccountId, BodyHash, GroupId, MoveId};
use parliament_mailbox_state::SessionMark;
use parliament_mailbox_state::view::{ImageEntry, ImagePlace};
use serde::{Deserialize, Serialize};

/// A question about a user on the move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ImageQuestion {
    /// The hashes of the records from a place on.
    Hashes {
        /// The group.
        group: GroupId,
        /// Whose.
        account: AccountId,
        /// Where the page begins.
        from: ImagePlace,
    },
    /// Records by their places.
    Records {
        /// The group.
        group: GroupId,
        /// Whose.
        account: AccountId,
        /// Which.
        places: Vec<ImagePlace>,
    },
    /// The head, if the user is frozen by this move.
    Head {
        /// The group.
        group: GroupId,
        /// Whose.
        account: AccountId,
        /// The move.
        move_id: MoveId,
    },
    /// How many of these bodies the node lacks; it pulls them meanwhile.
    Bodies {
        /// Which.
        hashes: Vec<BodyHash>,
    },
}

/// The answer to each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ImageAnswer {
    /// A page, and where the next one begins.
    Hashes {
        /// The records and their hashes.
        page: Vec<ImageEntry>,
        /// The next page.
        next: Option<ImagePlace>,
    },
    /// The records in the order asked, as many of the first ones as one answer carries.
    Records(Vec<Option<Vec<u8>>>),
    /// The head and the sessions that are over.
    Head {
        /// The head record; `None` while this move has not frozen it.
        head: Option<Vec<u8>>,
        /// What the group knows of sessions that are over.
        over: Vec<SessionMark>,
    },
    /// So many are lacking.
    Bodies(u64),
    /// The node has no copy of the group, or cannot read it.
    Refused(String),
}
