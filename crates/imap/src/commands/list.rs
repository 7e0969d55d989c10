//! LIST, LSUB and STATUS responses (RFC 9051 sections 7.3.1 and 7.3.4, RFC 5258, RFC 5819, RFC 6154).

use super::mailbox::Kind;
use crate::Session;
use crate::parse::{ListCommand, StatusItem};
use parliament_ids::{MailboxId, MailboxName};
use parliament_mail_api::{ListPattern, ListRequest, ListRow, Request, SpecialUse, StatusData, StatusRequest};

/// How the rows of a LIST are told.
#[derive(Clone, Debug, Default)]
pub(crate) struct ListJob {
    /// Rows are told as LSUB; then: parents of subscribed names are told as well.
    lsub: Option<bool>,
    subscribed: bool,
    recursive_match: bool,
    /// The selection options, as CHILDINFO repeats them.
    selected_by: &'static str,
    status: Option<Vec<StatusItem>>,
}

impl Session {
    pub(crate) fn list(&mut self, tag: String, list: ListCommand) {
        if list.patterns.iter().any(|pattern| pattern.0.is_empty()) {
            // A request for the separator (RFC 9051 section 6.3.9).
            self.w.text("* LIST (\\Noselect) \"/\" \"\"\r\n");
        }
        let patterns: Vec<ListPattern> = list.patterns.into_iter().filter(|pattern| !pattern.0.is_empty()).collect();
        if patterns.is_empty() {
            return self.done(&tag, format_args!("OK List completed"));
        }
        let job = ListJob {
            lsub: None,
            subscribed: list.only_subscribed || list.return_subscribed,
            recursive_match: list.recursive_match,
            selected_by: match (list.only_subscribed, list.only_special_use) {
                (true, true) => "\"SUBSCRIBED\" \"SPECIAL-USE\"",
                (false, true) => "\"SPECIAL-USE\"",
                _ => "\"SUBSCRIBED\"",
            },
            status: list.status,
        };
        let request = ListRequest {
            patterns,
            subscribed: list.only_subscribed,
            recursive_match: list.recursive_match,
            special_use: list.only_special_use,
            with_status: job.status.is_some(),
        };
        self.simple(tag, Kind::List(Box::new(job)), Request::List(request));
    }

    pub(crate) fn lsub(&mut self, tag: String, patterns: Vec<ListPattern>) {
        if patterns.iter().any(|pattern| pattern.0.is_empty()) {
            self.w.text("* LSUB (\\Noselect) \"/\" \"\"\r\n");
            return self.done(&tag, format_args!("OK Lsub completed"));
        }
        // With `%` the parent of a subscribed name is told too (RFC 3501 section 6.3.9).
        let parents = patterns.iter().all(|pattern| pattern.0.contains('%') && !pattern.0.contains('*'));
        let job = ListJob { lsub: Some(parents), ..ListJob::default() };
        let request = ListRequest { patterns, subscribed: true, recursive_match: parents, ..ListRequest::default() };
        self.simple(tag, Kind::List(Box::new(job)), Request::List(request));
    }

    pub(crate) fn on_list(&mut self, tag: &str, job: &ListJob, rows: &[ListRow]) {
        for row in rows {
            match job.lsub {
                Some(parents) => self.write_lsub(row, parents),
                None => self.write_list(job, row),
            }
            if let (Some(items), Some(status)) = (&job.status, &row.status) {
                self.write_status(&row.name, items, status);
            }
        }
        self.done(tag, format_args!("OK {} completed", if job.lsub.is_some() { "Lsub" } else { "List" }));
    }

    fn write_lsub(&mut self, row: &ListRow, parents: bool) {
        if !(row.subscribed || parents && row.child_matches) {
            return;
        }
        self.w.text(if row.subscribed { "* LSUB () \"/\" " } else { "* LSUB (\\Noselect) \"/\" " });
        self.w.mailbox(row.name.as_str());
        self.w.text("\r\n");
    }

    fn write_list(&mut self, job: &ListJob, row: &ListRow) {
        self.w.text("* LIST (");
        if row.mailbox.is_none() {
            // Clients that know no \NonExistent know \Noselect.
            self.w.text("\\NonExistent \\Noselect ");
        }
        self.w.text(if row.has_children { "\\HasChildren" } else { "\\HasNoChildren" });
        if job.subscribed && row.subscribed {
            self.w.text(" \\Subscribed");
        }
        for (_, name) in SpecialUse::NAMES.iter().filter(|(special_use, _)| row.special_use.contains(special_use)) {
            self.w.fmt(format_args!(" {name}"));
        }
        self.w.text(") \"/\" ");
        self.w.mailbox(row.name.as_str());
        if job.recursive_match && row.child_matches {
            self.w.fmt(format_args!(" (\"CHILDINFO\" ({}))", job.selected_by));
        }
        self.w.text("\r\n");
    }

    pub(crate) fn status(&mut self, tag: String, name: MailboxName, items: Vec<StatusItem>) {
        if items.contains(&StatusItem::HighestModSeq) {
            self.enable_condstore();
        }
        self.simple(tag, Kind::Status { name: name.clone(), items }, Request::Status(StatusRequest { name }));
    }

    pub(crate) fn write_status(&mut self, name: &MailboxName, items: &[StatusItem], status: &StatusData) {
        self.w.text("* STATUS ");
        self.w.mailbox(name.as_str());
        // What was not shown of the selected mailbox is not told to be known (RFC 7162 section 3.1.2.1).
        let shown = self.view.as_ref().filter(|view| view.mailbox == status.mailbox).map(|view| view.told_modseq);
        let modseq = shown.map_or(status.highest_modseq, |shown| shown.min(status.highest_modseq)).0.max(1);
        let mut separator = " (";
        for item in items {
            self.w.text(separator);
            separator = " ";
            match item {
                StatusItem::Messages => self.w.fmt(format_args!("MESSAGES {}", status.messages)),
                StatusItem::UidNext => self.w.fmt(format_args!("UIDNEXT {}", status.uid_next)),
                StatusItem::UidValidity => self.w.fmt(format_args!("UIDVALIDITY {}", status.uid_validity)),
                StatusItem::Unseen => self.w.fmt(format_args!("UNSEEN {}", status.unseen)),
                StatusItem::Deleted => self.w.fmt(format_args!("DELETED {}", status.deleted)),
                StatusItem::Size => self.w.fmt(format_args!("SIZE {}", status.size)),
                // IMAP4rev2 knows no recent messages.
                StatusItem::Recent => self.w.fmt(format_args!("RECENT {}", if self.enabled.rev2 { 0 } else { status.recent })),
                StatusItem::HighestModSeq => self.w.fmt(format_args!("HIGHESTMODSEQ {modseq}")),
                StatusItem::MailboxId => {
                    let id = self.mailbox_id(status.mailbox);
                    self.w.fmt(format_args!("MAILBOXID ({id})"));
                }
                StatusItem::AppendLimit => self.w.fmt(format_args!("APPENDLIMIT {}", self.settings.message_bytes_max)),
            }
        }
        self.w.text(")\r\n");
    }

    /// MAILBOXID (RFC 8474): unique over all accounts, so that shared mailboxes have one.
    pub(crate) fn mailbox_id(&self, mailbox: MailboxId) -> String {
        format!("F{}_{mailbox}", self.account_number())
    }

    /// The account's number, as object ids show it.
    pub(crate) fn account_number(&self) -> u64 {
        self.identity.as_ref().map_or(0, |identity| identity.account.0)
    }
}
