//! Who votes in Kafka's quorum, and changes of that.

use std::time::Duration;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::add_raft_voter_request::Listener;
use kafka_protocol::messages::describe_quorum_request::{PartitionData, TopicData};
use kafka_protocol::messages::describe_quorum_response::ReplicaState;
use kafka_protocol::messages::{
    AddRaftVoterRequest, DescribeQuorumRequest, RemoveRaftVoterRequest, TopicName,
};
use uuid::Uuid;

use super::admin::{PATIENCE_MS, id, text};
use super::quorum::{Quorum, Replica};
use super::wire::{Connection, KafkaError, accepted, done_before};

/// The partition that holds the metadata of all others.
const METADATA: &str = "__cluster_metadata";

/// The quorum, when this node is the active controller; none when it is not.
pub async fn quorum(controller: &mut Connection) -> Result<Option<Quorum>, KafkaError> {
    let topic = TopicData::default()
        .with_topic_name(TopicName(text(METADATA)))
        .with_partitions(vec![PartitionData::default()]);
    let answer = controller.call(DescribeQuorumRequest::default().with_topics(vec![topic])).await?;
    let code = ResponseError::try_from_code(answer.error_code);
    let partition = answer.topics.into_iter().flat_map(|t| t.partitions).next();
    let inner = partition.as_ref().and_then(|p| ResponseError::try_from_code(p.error_code));
    match code.or(inner) {
        Some(ResponseError::NotLeaderOrFollower | ResponseError::NotController) => return Ok(None),
        Some(error) => {
            let said = answer.error_message.map(|m| m.to_string()).unwrap_or_default();
            return Err(KafkaError::Refused { what: "describe its quorum".into(), error, said });
        }
        None => {}
    }
    let Some(partition) = partition else { return Ok(None) };
    let Some(leader) = id(partition.leader_id) else { return Ok(None) };
    let now = partition.current_voters.iter().find(|v| v.replica_id == partition.leader_id);
    let now = now.map_or(0, |v| v.last_caught_up_timestamp);
    let replicas = |all: Vec<ReplicaState>| {
        all.into_iter().filter_map(|r| {
            let at = r.last_caught_up_timestamp;
            let behind = u64::try_from(now.saturating_sub(at)).unwrap_or(0);
            let behind = (at > 0).then(|| Duration::from_millis(behind));
            Some(Replica { id: id(r.replica_id)?, directory: r.replica_directory_id, behind })
        })
    };
    Ok(Some(Quorum {
        leader,
        voters: replicas(partition.current_voters).collect(),
        observers: replicas(partition.observers).collect(),
    }))
}

/// Takes the vote of a disk that is gone. Success when it has none.
pub async fn remove(controller: &mut Connection, voter: u16, disk: Uuid) -> Result<(), KafkaError> {
    let request = RemoveRaftVoterRequest::default()
        .with_cluster_id(None)
        .with_voter_id(voter.into())
        .with_voter_directory_id(disk);
    let answer = controller.call(request).await?;
    let what = format!("take the vote of kafka-{voter}");
    done_before(
        accepted(&what, answer.error_code, answer.error_message.as_ref()),
        ResponseError::VoterNotFound,
    )
}

/// Gives a disk a vote. Success when it has one.
pub async fn add(
    controller: &mut Connection,
    voter: u16,
    disk: Uuid,
    host: &str,
    port: u16,
) -> Result<(), KafkaError> {
    let listener =
        Listener::default().with_name(text(super::build::CONTROLLER)).with_host(text(host)).with_port(port);
    let request = AddRaftVoterRequest::default()
        .with_cluster_id(None)
        .with_timeout_ms(PATIENCE_MS)
        .with_voter_id(voter.into())
        .with_voter_directory_id(disk)
        .with_listeners(vec![listener]);
    let answer = controller.call(request).await?;
    let what = format!("give kafka-{voter} a vote");
    done_before(
        accepted(&what, answer.error_code, answer.error_message.as_ref()),
        ResponseError::DuplicateVoter,
    )
}
