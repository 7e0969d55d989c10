//! What each family of commands does, as steps of a [`crate::Session`].

pub(crate) mod append;
mod append_send;
mod copy;
pub(crate) mod fetch;
mod fetch_row;
pub(crate) mod idle;
mod list;
pub(crate) mod login;
pub(crate) mod mailbox;
mod quota;
pub(crate) mod search;
mod select;
pub(crate) mod store;
