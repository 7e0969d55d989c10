//! GETQUOTA and GETQUOTAROOT (RFC 9208). Every mailbox of an account has one quota root, the empty name.

use super::mailbox::Kind;
use crate::Session;
use parliament_ids::MailboxName;
use parliament_mail_api::{QuotaLimits, QuotaUsage, Request, StatusRequest};

impl Session {
    pub(crate) fn get_quota(&mut self, tag: String, root: &str) {
        if !root.is_empty() {
            return self.tagged(&tag, "NO [NONEXISTENT] No such quota root");
        }
        self.simple(tag, Kind::Quota, Request::GetQuota);
    }

    /// The mailbox must exist and be visible before its root is told.
    pub(crate) fn get_quota_root(&mut self, tag: String, name: MailboxName) {
        self.simple(tag, Kind::QuotaRoot { name: name.clone() }, Request::Status(StatusRequest { name }));
    }

    pub(crate) fn on_quota_root(&mut self, tag: String, name: &MailboxName) {
        self.w.text("* QUOTAROOT ");
        self.w.mailbox(name.as_str());
        self.w.text(" \"\"\r\n");
        self.simple(tag, Kind::Quota, Request::GetQuota);
    }

    pub(crate) fn on_quota(&mut self, tag: &str, limits: QuotaLimits, usage: QuotaUsage) {
        // STORAGE counts units of 1024 bytes (RFC 9208 section 5.1): usage rounds up, the limit down.
        let resources = [
            ("STORAGE", usage.storage_bytes.div_ceil(1024), limits.storage_bytes.map(|bytes| bytes / 1024)),
            ("MESSAGE", usage.messages, limits.messages),
            ("MAILBOX", usage.mailboxes, limits.mailboxes),
        ];
        let told: Vec<String> =
            resources.iter().filter_map(|(name, used, limit)| limit.map(|limit| format!("{name} {used} {limit}"))).collect();
        self.w.fmt(format_args!("* QUOTA \"\" ({})\r\n", told.join(" ")));
        self.done(tag, format_args!("OK Quota completed"));
    }
}
