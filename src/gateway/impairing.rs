//! Answers to clients of the control socket about rules of impairment.

use std::time::Instant;

use super::Gateway;
use crate::control::RequestError;
use crate::control::proto::{Impairment, Reply};
use crate::impair::{Rule, RuleId, RuleInfo, RulesError};

impl Gateway {
    pub(super) fn set_rules(&mut self, rules: Vec<Rule>) -> Result<Reply, RequestError> {
        let now = Instant::now();
        self.link
            .with_impairment(|impairment| impairment.set(rules, now))
            .ok_or(RequestError::Stopping)??;
        Ok(self.list_rules())
    }

    pub(super) fn add_rule(&mut self, rule: Rule) -> Result<Reply, RequestError> {
        let now = Instant::now();
        let added = self.link.with_impairment(|impairment| {
            let id = impairment.add(rule, now)?;
            Ok(impairment.rules().get(id, now).map(listed))
        });
        match added.ok_or(RequestError::Stopping)? {
            Ok(Some(rule)) => Ok(Reply::Impairment(Box::new(rule))),
            Ok(None) => Err(RequestError::Stopping),
            Err(error) => Err(RulesError::into(error)),
        }
    }

    pub(super) fn remove_rule(&mut self, id: RuleId) -> Result<Reply, RequestError> {
        let removed = self
            .link
            .with_impairment(|impairment| impairment.remove(id));
        if removed.ok_or(RequestError::Stopping)? {
            Ok(Reply::Done {})
        } else {
            Err(RequestError::NotFound(format!(
                "there is no rule {id}, or not any more; the list of rules says which there are"
            )))
        }
    }

    pub(super) fn list_rules(&self) -> Reply {
        let now = Instant::now();
        let rules = self
            .link
            .look_at_impairment(|impairment| impairment.rules().list(now).map(listed).collect());
        Reply::Impairments {
            rules: rules.unwrap_or_default(),
        }
    }
}

impl From<RulesError> for RequestError {
    fn from(error: RulesError) -> Self {
        Self::Refused(error.to_string())
    }
}

fn listed(info: RuleInfo<'_>) -> Impairment {
    Impairment {
        id: info.id,
        rule: info.rule.clone(),
        seed: info.seed,
        in_force: info.in_force,
        up: info.up,
        down: info.down,
    }
}
