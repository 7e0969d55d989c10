//! The state machine of a group of users: commands, decisions, events, records.
//!
//! A command is decided against the tables (`decide`: events or a rejection), and only its events change them (`evolve`). Both
//! are pure: no clock, no randomness, no order that differs between replicas. views read, and the invariants are code.
//!
//! The interface (faults are [`TableFault`], `M` is [`parliament_ids::MailboxId`], `A` is [`parliament_ids::AccountId`]):
//!
//! ```text
//! apply(&mut Overlay, index: u64, &Command) -> Result<Applied, TableFault>
//! check(&dyn Tables, A) -> Result<(), Vec<String>>
//! view::account(&dyn Tables, A) -> Result<Option<AccountView>, _>       view::accounts(&dyn Tables) -> Result<Vec<A>, _>
//! view::owner(&dyn Tables, A) -> Result<Option<OwnerRecord>, _>         view::state_hash(&dyn Tables, A) -> Result<u128, _>
//! view::resolve(&dyn Tables, A, &MailboxName) -> Result<Option<M>, _>   view::name_of(&dyn Tables, A, M) -> Result<Option<MailboxName>, _>
//! view::select(&dyn Tables, A, actor, &MailboxRef) -> Result<Result<Selected, Rejection>, _>
//! view::status(&dyn Tables, A, actor, &MailboxName) -> Result<Result<StatusData, Rejection>, _>
//! view::list(&dyn Tables, A, actor, &ListRequest) -> Result<Vec<ListRow>, _>
//! view::delta(&dyn Tables, A, actor, &Mark) -> Result<Delta, _>
//! view::flag_rows(&dyn Tables, A, M, &UidSet, Option<ModSeq>, &mut dyn FnMut(FlagRow) -> bool) -> Result<(), _>
//! view::message_rows(&dyn Tables, A, M, &UidSet, &mut dyn FnMut(MessageRow) -> bool) -> Result<(), _>
//! view::vanished_since(&dyn Tables, A, M, ModSeq, &UidSet) -> Result<UidSet, _>
//! view::uids(&dyn Tables, A, M) -> Result<UidSet, _>                    view::keywords(&dyn Tables, A, M) -> Result<Vec<Keyword>, _>
//! view::quota(&dyn Tables, A) -> Result<Option<(QuotaLimits, QuotaUsage)>, _>
//! view::metadata(&dyn Tables, A, actor, Option<M>) -> Result<Vec<MetadataEntry>, _>
//! view::rights(&dyn Tables, A, actor, M) -> Result<Rights, _>           view::acl(&dyn Tables, A, M) -> Result<Vec<AclEntry>, _>
//! view::ledger_head(&dyn Tables, A, M) -> Result<Option<[u8; 16]>, _>
//! view::session_last(&dyn Tables, A, &SessionKey) -> Result<Option<(RequestSeq, Result<Reply, Rejection>)>, _>
//! ```

mod applied;
mod command;
mod port;

pub use applied::{Applied, Change, Owner, OwnerRecord, Refusal};
pub use command::{Acquire, Command, Evidence, NewMessage, Op, UserCommand, account_of, bodies_named};
pub use port::{MemoryTables, Overlay, TableFault, Tables, Writes};
