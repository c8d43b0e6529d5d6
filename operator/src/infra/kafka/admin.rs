//! What the operator asks of Kafka: its brokers, topics, settings, rights and users, and changes of them.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::alter_partition_reassignments_request::{
    ReassignablePartition, ReassignableTopic,
};
use kafka_protocol::messages::alter_user_scram_credentials_request::ScramCredentialUpsertion;
use kafka_protocol::messages::create_acls_request::AclCreation;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::{
    AlterPartitionReassignmentsRequest, AlterUserScramCredentialsRequest, BrokerId, CreateAclsRequest,
    CreatePartitionsRequest, CreateTopicsRequest, DescribeAclsRequest, DescribeClusterRequest,
    DescribeConfigsRequest, DescribeUserScramCredentialsRequest, IncrementalAlterConfigsRequest,
    MetadataRequest, TopicName,
};
use kafka_protocol::protocol::StrBytes;

use super::content::{Move, Partition, Right, Settings, Topic};
use super::wire::{Connection, KafkaError, accepted, done_before};

/// Longest time Kafka may take for a change.
pub const PATIENCE_MS: i32 = 10_000;

// Numbers of the protocol, from Kafka's `ConfigResource.Type`, `ConfigEntry.ConfigSource`, `AlterConfigOp.OpType`,
// `AclOperation`, `AclPermissionType`, `PatternType` and `ScramMechanism`.
const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const SET_ON_TOPIC: i8 = 1;
const SET_ON_ALL_BROKERS: i8 = 3;
const SET: i8 = 0;
const DELETE: i8 = 1;
const ANY: i8 = 1;
const ALLOW: i8 = 3;
const SCRAM_SHA_512: i8 = 2;
/// Endpoints of controllers, in `DescribeCluster`.
const CONTROLLERS: i8 = 2;
const EVERY_HOST: &str = "*";

/// A user of Kafka and the key derived from the password.
pub struct Credential {
    pub user: String,
    pub salt: Vec<u8>,
    pub iterations: i32,
    /// `PBKDF2-HMAC-SHA-512(password, salt, iterations)`.
    pub salted_password: Vec<u8>,
}

/// A broker the active controller knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    pub id: u16,
    /// It is registered, but takes no part.
    pub fenced: bool,
}

pub fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}

pub fn id(id: BrokerId) -> Option<u16> {
    u16::try_from(id.0).ok()
}

fn ids(all: &[BrokerId]) -> Vec<u16> {
    all.iter().copied().filter_map(id).collect()
}

/// The id of the cluster, and every broker that is registered.
pub async fn brokers(controller: &mut Connection) -> Result<(String, Vec<Broker>), KafkaError> {
    // The controllers' listener knows the brokers too, when asked for all of them.
    let request = DescribeClusterRequest::default().with_include_fenced_brokers(true);
    let mut answer = controller.call(request.clone()).await?;
    if answer.error_code == ResponseError::MismatchedEndpointType.code() {
        answer = controller.call(request.with_endpoint_type(CONTROLLERS)).await?;
    }
    accepted("name its brokers", answer.error_code, answer.error_message.as_ref())?;
    let known = answer.brokers.iter();
    let known = known.filter_map(|b| Some(Broker { id: id(b.broker_id)?, fenced: b.is_fenced })).collect();
    Ok((answer.cluster_id.to_string(), known))
}

/// Every topic and where its partitions are, by a broker's word.
pub async fn topics(broker: &mut Connection) -> Result<BTreeMap<String, Vec<Partition>>, KafkaError> {
    let request = MetadataRequest::default().with_topics(None).with_allow_auto_topic_creation(false);
    let answer = broker.call(request).await?;
    accepted("name its topics", answer.error_code, None)?;
    let partitions = |t: &kafka_protocol::messages::metadata_response::MetadataResponseTopic| {
        let all = t.partitions.iter().map(|p| Partition {
            index: p.partition_index,
            replicas: ids(&p.replica_nodes),
            in_sync: ids(&p.isr_nodes),
        });
        all.collect()
    };
    Ok(answer.topics.iter().filter_map(|t| Some((t.name.as_ref()?.0.to_string(), partitions(t)))).collect())
}

/// What is set on these topics, and what is set on all brokers alike while they run.
pub async fn settings(
    controller: &mut Connection,
    topics: impl Iterator<Item = &String>,
) -> Result<(BTreeMap<String, Settings>, Settings), KafkaError> {
    let resource = |kind, name: &str| {
        DescribeConfigsResource::default()
            .with_resource_type(kind)
            .with_resource_name(text(name))
            .with_configuration_keys(None)
    };
    let resources = topics.map(|name| resource(TOPIC, name)).chain([resource(BROKER, "")]).collect();
    let answer = controller.call(DescribeConfigsRequest::default().with_resources(resources)).await?;
    let (mut by_topic, mut of_brokers) = (BTreeMap::new(), Settings::new());
    for result in answer.results {
        let name = result.resource_name.to_string();
        accepted(&format!("name the settings of {name}"), result.error_code, result.error_message.as_ref())?;
        let source = if result.resource_type == TOPIC { SET_ON_TOPIC } else { SET_ON_ALL_BROKERS };
        let set = result.configs.iter().filter(|c| c.config_source == source);
        let set: Settings = set
            .map(|c| (c.name.to_string(), c.value.as_ref().map(ToString::to_string).unwrap_or_default()))
            .collect();
        if result.resource_type == TOPIC {
            by_topic.insert(name, set);
        } else {
            of_brokers = set;
        }
    }
    Ok((by_topic, of_brokers))
}

/// Every right somebody was given on anything.
pub async fn rights(controller: &mut Connection) -> Result<BTreeSet<Right>, KafkaError> {
    let request = DescribeAclsRequest::default()
        .with_resource_type_filter(ANY)
        .with_resource_name_filter(None)
        .with_pattern_type_filter(ANY)
        .with_principal_filter(None)
        .with_host_filter(None)
        .with_operation(ANY)
        .with_permission_type(ANY);
    let answer = controller.call(request).await?;
    accepted("name the rights of its users", answer.error_code, answer.error_message.as_ref())?;
    let mut rights = BTreeSet::new();
    for resource in answer.resources {
        for acl in resource.acls.iter().filter(|acl| acl.permission_type == ALLOW && &*acl.host == EVERY_HOST)
        {
            rights.insert(Right {
                principal: acl.principal.to_string(),
                resource: resource.resource_type,
                pattern: resource.pattern_type,
                name: resource.resource_name.to_string(),
                operation: acl.operation,
            });
        }
    }
    Ok(rights)
}

/// Names of the users who can log in, by a broker's word: a controller closes the connection instead of answering.
pub async fn users(broker: &mut Connection) -> Result<BTreeSet<String>, KafkaError> {
    let request = DescribeUserScramCredentialsRequest::default().with_users(None);
    let answer = broker.call(request).await?;
    accepted("name its users", answer.error_code, answer.error_message.as_ref())?;
    Ok(answer.results.iter().map(|r| r.user.to_string()).collect())
}

pub async fn create_topics(
    controller: &mut Connection,
    topics: &[Topic],
    replicas: u16,
) -> Result<(), KafkaError> {
    let one = |topic: &Topic| {
        let setting = |(name, value): (&String, &String)| {
            CreatableTopicConfig::default().with_name(text(name)).with_value(Some(text(value)))
        };
        CreatableTopic::default()
            .with_name(TopicName(text(&topic.name)))
            .with_num_partitions(topic.partitions)
            .with_replication_factor(i16::try_from(replicas).unwrap_or(1))
            .with_configs(topic.settings.iter().map(setting).collect())
    };
    let request = CreateTopicsRequest::default()
        .with_topics(topics.iter().map(one).collect())
        .with_timeout_ms(PATIENCE_MS);
    for result in controller.call(request).await?.topics {
        let what = format!("create topic {}", &*result.name.0);
        let made = accepted(&what, result.error_code, result.error_message.as_ref());
        done_before(made, ResponseError::TopicAlreadyExists)?;
    }
    Ok(())
}

/// Raises the number of partitions of topics.
pub async fn create_partitions(
    controller: &mut Connection,
    topics: &[(String, i32)],
) -> Result<(), KafkaError> {
    let one = |(name, count): &(String, i32)| {
        CreatePartitionsTopic::default()
            .with_name(TopicName(text(name)))
            .with_count(*count)
            .with_assignments(None)
    };
    let request = CreatePartitionsRequest::default()
        .with_topics(topics.iter().map(one).collect())
        .with_timeout_ms(PATIENCE_MS);
    for result in controller.call(request).await?.results {
        let what = format!("add partitions to topic {}", &*result.name.0);
        accepted(&what, result.error_code, result.error_message.as_ref())?;
    }
    Ok(())
}

/// Begins to move partitions.
pub async fn reassign(controller: &mut Connection, moves: &[Move]) -> Result<(), KafkaError> {
    // A request names every topic once.
    let mut topics: BTreeMap<&str, Vec<ReassignablePartition>> = BTreeMap::new();
    for Move { topic, index, brokers } in moves {
        let brokers = brokers.iter().map(|id| BrokerId(i32::from(*id))).collect();
        let partition = ReassignablePartition::default();
        let partition = partition.with_partition_index(*index).with_replicas(Some(brokers));
        topics.entry(topic).or_default().push(partition);
    }
    let one = |(name, partitions)| {
        ReassignableTopic::default().with_name(TopicName(text(name))).with_partitions(partitions)
    };
    let request = AlterPartitionReassignmentsRequest::default()
        .with_topics(topics.into_iter().map(one).collect())
        .with_timeout_ms(PATIENCE_MS);
    let answer = controller.call(request).await?;
    accepted("move partitions", answer.error_code, answer.error_message.as_ref())?;
    for topic in answer.responses {
        for partition in topic.partitions {
            let what = format!("move partition {} of {}", partition.partition_index, &*topic.name.0);
            accepted(&what, partition.error_code, partition.error_message.as_ref())?;
        }
    }
    Ok(())
}

/// What settings are changed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    Topic(String),
    AllBrokers,
}

/// Sets settings, or takes them back where the value is none. They take effect at once. Asked of a broker: a controller
/// would take any value.
pub async fn alter_settings(
    broker: &mut Connection,
    scope: &Scope,
    changes: &[(String, Option<String>)],
) -> Result<(), KafkaError> {
    let (kind, name) = match scope {
        Scope::Topic(name) => (TOPIC, name.as_str()),
        Scope::AllBrokers => (BROKER, ""),
    };
    let change = |(name, value): &(String, Option<String>)| {
        AlterableConfig::default()
            .with_name(text(name))
            .with_config_operation(if value.is_some() { SET } else { DELETE })
            .with_value(value.as_deref().map(text))
    };
    let resource = AlterConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(name))
        .with_configs(changes.iter().map(change).collect());
    let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
    for result in broker.call(request).await?.responses {
        let names: Vec<_> = changes.iter().map(|(name, _)| name.as_str()).collect();
        let what = format!("set {}", names.join(", "));
        accepted(&what, result.error_code, result.error_message.as_ref())?;
    }
    Ok(())
}

pub async fn grant(controller: &mut Connection, rights: &[Right]) -> Result<(), KafkaError> {
    let one = |right: &Right| {
        AclCreation::default()
            .with_principal(text(&right.principal))
            .with_host(text(EVERY_HOST))
            .with_resource_type(right.resource)
            .with_resource_pattern_type(right.pattern)
            .with_resource_name(text(&right.name))
            .with_operation(right.operation)
            .with_permission_type(ALLOW)
    };
    let request = CreateAclsRequest::default().with_creations(rights.iter().map(one).collect());
    for result in controller.call(request).await?.results {
        accepted("give rights to a user", result.error_code, result.error_message.as_ref())?;
    }
    Ok(())
}

pub async fn set_passwords(
    controller: &mut Connection,
    credentials: Vec<Credential>,
) -> Result<(), KafkaError> {
    let one = |credential: Credential| {
        ScramCredentialUpsertion::default()
            .with_name(text(&credential.user))
            .with_mechanism(SCRAM_SHA_512)
            .with_iterations(credential.iterations)
            .with_salt(Bytes::from(credential.salt))
            .with_salted_password(Bytes::from(credential.salted_password))
    };
    let request = AlterUserScramCredentialsRequest::default()
        .with_upsertions(credentials.into_iter().map(one).collect());
    for result in controller.call(request).await?.results {
        let what = format!("set the password of {}", &*result.user);
        accepted(&what, result.error_code, result.error_message.as_ref())?;
    }
    Ok(())
}
