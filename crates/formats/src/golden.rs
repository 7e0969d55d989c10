//! Golden bytes: what earlier programs wrote must mean the same for ever.

use super::*;
use parliament_cluster_state as cluster;
use parliament_ids::*;
use parliament_mail_api::*;
use parliament_mailbox_state::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| std::format!("{b:02x}")).collect()
}

fn name(text: &str) -> MailboxName {
    MailboxName::new(text).unwrap()
}

fn uids() -> UidSet {
    UidSet::from_ranges([(1, 3), (9, 9)])
}

fn flags() -> FlagSet {
    FlagSet { system: SystemFlags::SEEN, keywords: vec![Keyword::new("$Work").unwrap()] }
}

fn message() -> NewMessage {
    let internal_date = Some(DateTime { seconds: 1_700_000_000, zone_minutes: -90 });
    NewMessage { hash: BodyHash([0xab; 32]), size: 20_480, internal_date, flags: flags(), thread: ThreadId(77) }
}

fn user(op: Op) -> Command {
    Command::User(UserCommand {
        account: AccountId(5),
        fence: Fence(3),
        op_no: OpNo(17),
        request: Some(RequestId { session: SessionKey { node: NodeId(2), boot: Boot(4), session: 6 }, seq: RequestSeq(8) }),
        actor: AccountId(5),
        time: 1_700_000_001,
        acquire: Some(Acquire {
            node: NodeId(2),
            boot: Boot(4),
            expect_fence: Fence(2),
            evidence: Evidence::Withdrawn { node: NodeId(1), boot: Boot(9), voters: vec![NodeId(2), NodeId(3)], of: 3 },
        }),
        op,
    })
}

/// Every command of a group of users, in the order of its variants.
fn users() -> Vec<Command> {
    let mutate = |mutation| user(Op::Mutate(mutation));
    vec![
        Command::CreateAccount { account: AccountId(5), uid_validity_floor: 7, time: 9 },
        Command::DeleteAccount { account: AccountId(5) },
        Command::SessionsOver { node: NodeId(1), boot: Boot(2), below: 300 },
        user(Op::Append { to: name("INBOX"), messages: vec![message()] }),
        user(Op::Deliver { to: name("INBOX"), message: message(), dedupe: BodyHash([1; 32]) }),
        user(Op::RotateDedupe),
        user(Op::Handover { to: NodeId(3), to_boot: Boot(1) }),
        user(Op::Release),
        user(Op::Provision),
        user(Op::Noop),
        mutate(Mutation::Create { name: name("a/b"), special_use: vec![SpecialUse::Sent] }),
        mutate(Mutation::Delete { name: name("a") }),
        mutate(Mutation::Rename { from: name("a"), to: name("b") }),
        mutate(Mutation::Subscribe { name: name("a"), on: true }),
        mutate(Mutation::Store {
            mailbox: MailboxId(1),
            uids: uids(),
            change: FlagChange { mode: FlagMode::Add, flags: flags() },
            unchanged_since: Some(ModSeq(12)),
        }),
        mutate(Mutation::Expunge { mailbox: MailboxId(1), uids: Some(uids()) }),
        mutate(Mutation::Copy { from: MailboxId(1), uids: uids(), to: name("a") }),
        mutate(Mutation::Move { from: MailboxId(1), uids: uids(), to: name("a") }),
        mutate(Mutation::SetAcl(AclChange {
            name: name("a"),
            subject: AclSubject::Account(AccountId(2)),
            negative: false,
            mode: AclMode::Set,
            rights: Rights::READ,
        })),
        mutate(Mutation::SetQuota(QuotaLimits { storage_bytes: Some(1 << 30), messages: None, mailboxes: Some(10) })),
        mutate(Mutation::SetMetadata {
            mailbox: Some(name("a")),
            entries: vec![MetadataEntry { name: "/private/comment".into(), value: Some(b"x".to_vec()) }],
        }),
        user(Op::Freeze { move_id: MoveId(300), to: GroupId(3) }),
        moved(MoveStep::Import {
            from: GroupId(2),
            records: vec![
                MovedRecord { table: b'F', key: vec![1, 2], value: Some(vec![3, 4]) },
                MovedRecord { table: b'K', key: Vec::new(), value: None },
            ],
        }),
        moved(MoveStep::Activate { head: vec![1, 3], over: vec![SessionMark { node: NodeId(1), boot: Boot(2), below: 300 }] }),
        moved(MoveStep::Refuse { from: GroupId(2) }),
        moved(MoveStep::Depart),
        moved(MoveStep::Thaw),
        moved(MoveStep::Sweep),
    ]
}

fn moved(step: MoveStep) -> Command {
    Command::Move(MoveCommand { account: AccountId(5), move_id: MoveId(300), step })
}

fn clusters() -> Vec<cluster::Command> {
    let node = cluster::NodeRecord {
        id: NodeId(1),
        name: "n1".into(),
        zone: "z".into(),
        disk: [4; 16],
        boot: Boot(1),
        peer_address: "h:7400".into(),
        imap_address: "h:143".into(),
    };
    vec![
        cluster::Command::Form {
            cluster: cluster::ClusterRecord { id: [5; 16], name: "c".into(), groups: 8 },
            nodes: vec![node],
            placement: vec![cluster::Placement { group: GroupId(0), voters: vec![NodeId(1)] }],
        },
        cluster::Command::NodeStarted {
            node: NodeId(1),
            boot: Boot(2),
            disk: [4; 16],
            peer_address: "h:7400".into(),
            imap_address: "h:143".into(),
        },
        cluster::Command::AddAccounts { accounts: vec![cluster::NewAccount { name: "a@b".into(), credential: "{X}y".into() }], time: 3 },
        cluster::Command::SetCredential { account: AccountId(1), credential: "{X}z".into() },
        cluster::Command::DeleteAccount { account: AccountId(1), uid_validity_floor: 6 },
        cluster::Command::SetSetting { key: "k".into(), value: "v".into() },
        cluster::Command::Invite { hash: [7; 32], expires: 1_700_003_600, time: 1_700_000_000 },
        cluster::Command::AddNode {
            joining: cluster::Joining {
                invite: [7; 32],
                name: "n4".into(),
                zone: "z".into(),
                disk: [8; 16],
                peer_address: "h4:7400".into(),
                imap_address: String::new(),
            },
            time: 1_700_000_001,
        },
        cluster::Command::SetNodeState { node: NodeId(4), state: cluster::NodeState::Active },
        cluster::Command::SetNodeState { node: NodeId(4), state: cluster::NodeState::Draining },
        cluster::Command::SetNodeState { node: NodeId(4), state: cluster::NodeState::Lost },
        cluster::Command::RemoveNode { node: NodeId(4) },
        cluster::Command::SetPlacement {
            row: cluster::Copies {
                group: GroupId(3),
                version: 2,
                voters: vec![NodeId(1), NodeId(2)],
                learners: vec![NodeId(4)],
                leaving: vec![NodeId(2)],
            },
        },
        cluster::Command::BeginMove { account: AccountId(5), to: GroupId(3), time: 1_700_000_000 },
        cluster::Command::StopMove { account: AccountId(5), move_id: MoveId(300), why: "w".into() },
        cluster::Command::MoveArrived { account: AccountId(5), move_id: MoveId(300) },
        cluster::Command::EndMove { account: AccountId(5), move_id: MoveId(300) },
        cluster::Command::FormWith {
            cluster: cluster::ClusterRecord { id: [5; 16], name: "c".into(), groups: 8 },
            nodes: Vec::new(),
            roles: NodeRole::ALL.into_iter().zip(1..).map(|(role, id)| (NodeId(id), role)).collect(),
            placement: Vec::new(),
        },
        cluster::Command::AddNodeAs {
            joining: cluster::Joining {
                invite: [7; 32],
                name: "w".into(),
                zone: "z".into(),
                disk: [8; 16],
                peer_address: "w:7400".into(),
                imap_address: String::new(),
            },
            role: NodeRole::Witness,
            time: 1_700_000_001,
        },
        cluster::Command::Alone { version: AloneVersion(0), step: cluster::AloneStep::Begin(NodeId(2)) },
        cluster::Command::Alone { version: AloneVersion(1), step: cluster::AloneStep::End },
        cluster::Command::Alone { version: AloneVersion(2), step: cluster::AloneStep::Over },
    ]
}

/// Compares with the golden file, one line of hex per value; `PARLIAMENT_GOLDEN=write` adds lines for new variants at the end.
fn golden(file: &str, lines: &[String]) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(file);
    if std::env::var("PARLIAMENT_GOLDEN").as_deref() == Ok("write") {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, lines.join("\n") + "\n").unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap();
    assert_eq!(written.lines().collect::<Vec<_>>(), lines, "{file}: the meaning of bytes on disk must not change");
}

#[test]
fn commands_of_users_keep_their_bytes() {
    let lines: Vec<String> = users().iter().map(|c| hex(&encode_users(c).unwrap())).collect();
    golden("users-1.hex", &lines);
    for command in users() {
        assert_eq!(decode_users(&encode_users(&command).unwrap()).unwrap(), command);
    }
}

#[test]
fn commands_of_group_0_keep_their_bytes() {
    let lines: Vec<String> = clusters().iter().map(|c| hex(&encode_cluster(c).unwrap())).collect();
    golden("cluster-1.hex", &lines);
    for command in clusters() {
        assert_eq!(decode_cluster(&encode_cluster(&command).unwrap()).unwrap(), command);
    }
}

#[test]
fn damage_is_an_error_and_never_another_command() {
    let whole = encode_users(&users()[3]).unwrap();
    for cut in 0..whole.len() {
        assert!(decode_users(&whole[..cut]).is_err());
    }
    let mut longer = whole.to_vec();
    longer.push(0);
    assert!(decode_users(&longer).is_err());
    assert!(decode_users(&[USERS_VERSION + 1, 0]).is_err());
}

#[test]
fn requests_survive_the_relay() {
    let call = Call {
        owner: AccountId(1),
        actor: AccountId(1),
        request: None,
        view: Some(Mark { mailbox: MailboxId(1), modseq: ModSeq(4), uid_next: Uid(9) }),
        body: Request::Append {
            to: name("INBOX"),
            messages: vec![AppendMessage {
                body: BodySource::Inline(parliament_mail_api::bytes_serde::BytesField(Bytes::from_static(b"\0raw\r\n"))),
                flags: flags(),
                internal_date: None,
            }],
        },
    };
    assert_eq!(decode_call(&encode_call(&call).unwrap()).unwrap(), call);
    for unserved in [Unserved::NotHolder { hint: Some(NodeId(2)) }, Unserved::Moved { group: GroupId(3) }] {
        let answer = Err(unserved);
        assert_eq!(decode_answer(&encode_answer(&answer).unwrap()).unwrap(), answer);
    }
    let question = ImageQuestion::Records { group: GroupId(1), account: AccountId(2), places: vec![(b'F', vec![1, 2]), (b'M', vec![])] };
    assert_eq!(decode_image_question(&encode_image_question(&question).unwrap()).unwrap(), question);
    let answer = ImageAnswer::Hashes { page: vec![((b'F', vec![1]), u128::MAX)], next: Some((b'M', Vec::new())) };
    assert_eq!(decode_image_answer(&encode_image_answer(&answer).unwrap()).unwrap(), answer);
}
