//! Runs policies in this process: do they compile together, and do their tests pass. Pure but for a clock that bounds it.

use std::time::Duration;

use regorus::utils::limits::ExecutionTimerConfig;
use regorus::{Engine, Value as Rego};
use serde_json::{Value, json};

use super::rego::{File, Module, RegoError, plain};

/// Longest time one question may take.
const LIMIT: Duration = Duration::from_secs(2);

/// Policies that are loaded together.
pub struct Policies {
    engine: Engine,
}

impl Policies {
    /// Loads files and the document under `data`.
    pub fn load<'a>(files: impl IntoIterator<Item = &'a File>, data: &Value) -> Result<Self, RegoError> {
        let mut engine = Engine::new();
        // As OPA's server: a built-in function that is given something odd is undefined, and no error.
        engine.set_strict_builtin_errors(false);
        for file in files {
            engine.add_policy(file.path.clone(), file.text.clone()).map_err(refused)?;
        }
        engine.add_data_json(&data.to_string()).map_err(refused)?;
        if let Some(interval) = std::num::NonZeroU32::new(1000) {
            engine
                .set_execution_timer_config(ExecutionTimerConfig { limit: LIMIT, check_interval: interval });
        }
        Ok(Self { engine })
    }

    /// What a query such as `data.soma.policy.allow` comes to; nothing when it is undefined.
    pub fn ask(&mut self, query: &str, input: &Value) -> Result<Option<Value>, RegoError> {
        self.engine.set_input_json(&input.to_string()).map_err(refused)?;
        let results = self.engine.eval_query(query.to_owned(), false).map_err(refused)?;
        let value = results.result.first().and_then(|result| result.expressions.first()).map(|e| &e.value);
        match value {
            None | Some(Rego::Undefined) => Ok(None),
            Some(value) => Ok(serde_json::to_value(value).ok()),
        }
    }

    /// Runs the tests of a file; they pass when they are true.
    pub fn test(&mut self, file: &File, module: &Module) -> Result<(), RegoError> {
        let package = module.package.iter().map(|part| json!([part]).to_string()).collect::<String>();
        for test in &module.tests {
            let fails = |how: String| RegoError::Test { file: file.path.clone(), test: test.clone(), how };
            match self.ask(&format!("data{package}.{test}"), &json!({})) {
                Ok(None | Some(Value::Bool(false))) => return Err(fails("fails".into())),
                Ok(Some(_)) => {}
                Err(error) => return Err(fails(format!("does not run: {error}"))),
            }
        }
        Ok(())
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn refused(error: impl ToString) -> RegoError {
    RegoError::Compile(plain(&error.to_string()))
}
