//! What the members of a cluster say about themselves and each other. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use super::users::REPLICA;

/// A range of hash slots.
pub type Slots = RangeInclusive<u16>;

/// One pod, and what the member in it answered.
#[derive(Clone, Debug)]
pub struct Pod {
    pub address: Option<IpAddr>,
    /// The machine it is on.
    pub machine: Option<String>,
    pub answer: Answer,
}

/// What a member answered.
#[derive(Clone, Debug)]
pub enum Answer {
    /// It has no address yet, does not answer there, or still loads its data, and why.
    Silent(String),
    /// It does not take the operator's password.
    Refused(String),
    Member(Box<Member>),
}

/// A member that answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its own line of `CLUSTER NODES`.
    pub me: Node,
    /// The others it knows.
    pub others: Vec<Node>,
    /// Its `cluster_state`.
    pub ok: bool,
    pub keys: u64,
    /// Replicas may copy from it.
    pub open: bool,
    /// A replica's link to its master works.
    pub link_up: bool,
    /// How much of the stream of writes it has.
    pub offset: u64,
    pub version: String,
}

/// One line of `CLUSTER NODES`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub id: String,
    /// None when the member does not know where it is.
    pub address: Option<IpAddr>,
    /// A meeting that has not ended; the id is a made-up one.
    pub handshake: bool,
    /// Others do not reach it, or this member thinks so.
    pub failing: bool,
    /// Whose replica it is; `-` when the member does not know that one.
    pub master: Option<String>,
    pub epoch: u64,
    pub connected: bool,
    pub slots: Vec<Slots>,
}

impl Member {
    /// Reads what the questions of [`super::client`] were answered with.
    pub fn read(nodes: &str, cluster: &str, keys: u64, info: &str, users: &[String]) -> Option<Self> {
        let lines: Vec<_> =
            nodes.lines().filter(|line| !line.is_empty()).map(Node::read).collect::<Option<_>>()?;
        let (mine, others): (Vec<_>, Vec<_>) = lines.into_iter().partition(|(myself, _)| *myself);
        let (cluster, info) = (fields(cluster), fields(info));
        let me = mine.into_iter().next()?.1;
        // A replica tells both; its role may have changed since it was asked for its nodes.
        let offset = ["slave_repl_offset", "master_repl_offset"].iter().find_map(|key| info.get(key))?;
        Some(Self {
            me,
            others: others.into_iter().map(|(_, node)| node).collect(),
            ok: *cluster.get("cluster_state")? == "ok",
            keys,
            open: users.iter().any(|user| user.starts_with(&format!("user {REPLICA} on "))),
            link_up: info.get("master_link_status") == Some(&"up"),
            offset: offset.parse().ok()?,
            version: (*info.get("redis_version")?).to_owned(),
        })
    }

    /// It has no data and knows nobody.
    pub fn is_fresh(&self) -> bool {
        self.others.is_empty() && self.is_empty()
    }

    /// A master that has nothing to lose.
    pub fn is_empty(&self) -> bool {
        self.me.master.is_none() && self.me.slots.is_empty() && self.keys == 0
    }

    /// A master with slots.
    pub fn owns(&self) -> bool {
        !self.me.slots.is_empty()
    }

    /// What it knows of another.
    pub fn knows(&self, id: &str) -> Option<&Node> {
        self.others.iter().find(|node| node.id == id)
    }
}

impl Node {
    /// Whether it is the line of the member that was asked, and what it says.
    fn read(line: &str) -> Option<(bool, Self)> {
        let mut words = line.split_whitespace();
        let (id, address, flags) = (words.next()?, words.next()?, words.next()?);
        let (master, epoch) = (words.next()?, words.nth(2)?);
        let connected = words.next()? == "connected";
        let (host, _) = address.split('@').next()?.rsplit_once(':')?;
        let flag = |name: &str| flags.split(',').any(|flag| flag == name);
        let node = Self {
            id: id.to_owned(),
            address: host.parse().ok(),
            handshake: flag("handshake"),
            failing: flag("fail") || flag("fail?") || flag("noaddr"),
            master: flag("slave").then(|| master.to_owned()),
            epoch: epoch.parse().ok()?,
            connected,
            slots: words.filter_map(slots).collect(),
        };
        Some((flag("myself"), node))
    }
}

/// `0-5460` or `7`; a slot that is being moved, in brackets, is told again without them by its owner.
fn slots(word: &str) -> Option<Slots> {
    let (first, last) = word.split_once('-').unwrap_or((word, word));
    Some(first.parse().ok()?..=last.parse().ok()?)
}

/// The lines `key:value` of an answer.
pub fn fields(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter_map(|line| line.trim_end().split_once(':')).collect()
}

/// The replica that may take over from the master in pod `n` without making clients wait; otherwise why there is none.
pub fn successor(pods: &[Pod], n: u16) -> Result<u16, String> {
    /// Bytes a replica may lack: the fail-over lets clients wait until it has them.
    const LEVEL: u64 = 1 << 20;
    let member = |pod: &Pod| match &pod.answer {
        Answer::Member(member) => Some(member.clone()),
        _ => None,
    };
    let master = pods.get(usize::from(n)).and_then(member).ok_or("it does not answer")?;
    let follows = |member: &Member| member.me.master.as_ref() == Some(&master.me.id) && member.link_up;
    let replicas = pods.iter().zip(0..).filter_map(|(pod, n)| Some((n, member(pod)?)));
    match replicas.filter(|(_, member)| follows(member)).max_by_key(|(_, member)| member.offset) {
        None => Err("no replica of it follows".into()),
        Some((r, replica)) if replica.offset + LEVEL < master.offset => {
            let bytes = master.offset - replica.offset;
            Err(format!("redis-{r}, its replica, is {bytes} bytes behind"))
        }
        Some((r, _)) => Ok(r),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Redis 7.0 writes it; 7.2 adds words to the address.
    const NODES: &str = "\
07c3 10.0.0.4:6379@16379,redis-3.redis-headless slave e7d1 0 1426238317239 4 connected
67ed 10.0.0.2:6379@16379,redis-1.x,shard-id=ab master,fail? - 0 1426238316232 2 disconnected 5461-10922 16000
e7d1 10.0.0.1:6379@16379,redis-0.x myself,master - 0 0 1 connected 0-5460 [93-<-67ed]
dead :0@0 slave,noaddr - 0 0 7 disconnected
5ca1 10.0.0.9:6379@16379 handshake - 0 0 0 disconnected
";

    #[test]
    fn a_member_is_read() {
        let info = "redis_version:7.0.15\r\nrole:master\r\nmaster_repl_offset:42\r\n";
        let member =
            Member::read(NODES, "cluster_state:ok\r\n", 5, info, &["user soma-replica on +ping".into()]);
        let member = member.unwrap();
        assert_eq!((member.me.id.as_str(), &member.me.slots[..]), ("e7d1", &[0..=5460][..]));
        assert!(member.open);
        assert_eq!((member.ok, member.keys, member.offset, member.version.as_str()), (true, 5, 42, "7.0.15"));
        let replica = member.knows("07c3").unwrap();
        assert_eq!((replica.master.as_deref(), replica.address), (Some("e7d1"), "10.0.0.4".parse().ok()));
        let failing = member.knows("67ed").unwrap();
        assert!(failing.failing && !failing.connected);
        assert_eq!(failing.slots, [5461..=10922, 16000..=16000]);
        let dead = member.knows("dead").unwrap();
        assert_eq!((dead.master.as_deref(), dead.address), (Some("-"), None), "of a master nobody told of");
        assert!(member.knows("5ca1").unwrap().handshake);
        assert_eq!(Member::read("", "cluster_state:ok", 0, info, &[]), None, "no line of its own");
    }
}
