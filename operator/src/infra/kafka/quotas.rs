//! Limits of users, which Kafka calls client quotas.

use std::collections::BTreeMap;

use kafka_protocol::messages::alter_client_quotas_request::{EntityData, EntryData, OpData};
use kafka_protocol::messages::describe_client_quotas_request::ComponentData;
use kafka_protocol::messages::{AlterClientQuotasRequest, DescribeClientQuotasRequest};

use super::admin::text;
use super::wire::{Connection, KafkaError, accepted};

/// Values by Kafka's names, such as `producer_byte_rate`.
pub type Limits = BTreeMap<String, f64>;

const USER: &str = "user";
// `DescribeClientQuotasRequest.MatchType`.
const ANY_NAME: i8 = 2;

/// The limits of every user that has some of its own, by a broker's word.
pub async fn describe(broker: &mut Connection) -> Result<BTreeMap<String, Limits>, KafkaError> {
    let users =
        ComponentData::default().with_entity_type(text(USER)).with_match_type(ANY_NAME).with_match(None);
    let request = DescribeClientQuotasRequest::default().with_components(vec![users]).with_strict(true);
    let answer = broker.call(request).await?;
    accepted("name the limits of its users", answer.error_code, answer.error_message.as_ref())?;
    let mut all = BTreeMap::new();
    for entry in answer.entries.unwrap_or_default() {
        let user = entry.entity.iter().find(|entity| &*entity.entity_type == USER);
        let Some(user) = user.and_then(|entity| entity.entity_name.as_ref()) else { continue };
        let values = entry.values.iter().map(|value| (value.key.to_string(), value.value)).collect();
        all.insert(user.to_string(), values);
    }
    Ok(all)
}

/// Sets the limits of users; those they have from `before` and shall not have are taken back.
pub async fn alter(
    broker: &mut Connection,
    wanted: &BTreeMap<String, Limits>,
    before: &BTreeMap<String, Limits>,
) -> Result<(), KafkaError> {
    let one = |(user, limits): (&String, &Limits)| {
        let entity = EntityData::default().with_entity_type(text(USER)).with_entity_name(Some(text(user)));
        let set = limits.iter().map(|(key, value)| OpData::default().with_key(text(key)).with_value(*value));
        let gone =
            before.get(user).into_iter().flat_map(BTreeMap::keys).filter(|key| !limits.contains_key(*key));
        let gone = gone.map(|key| OpData::default().with_key(text(key)).with_remove(true));
        EntryData::default().with_entity(vec![entity]).with_ops(set.chain(gone).collect())
    };
    let request = AlterClientQuotasRequest::default().with_entries(wanted.iter().map(one).collect());
    for result in broker.call(request).await?.entries {
        accepted("limit a user", result.error_code, result.error_message.as_ref())?;
    }
    Ok(())
}
