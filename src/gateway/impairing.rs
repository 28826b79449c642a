//! Answers to clients of the control socket about rules of impairment.

use std::rc::Rc;
use std::time::Instant;

use super::Gateway;
use crate::control::RequestError;
use crate::control::proto::{Impairment, Reply};
use crate::impair::{Effect, Faults, Rule, RuleId, RuleInfo, RulesError};

impl Gateway {
    /// Gives flows and questions that begin from now on the faults among the rules as
    /// they stand, and no others. Flows that are open keep what they have.
    pub(super) fn follow_rules(&mut self) {
        let before = &self.faults;
        let faults = self
            .link
            .look_at_impairment(|impairment| Faults::new(impairment.rules().standing(), before));
        self.faults = Rc::new(faults.unwrap_or_default());
        let services = self.services.borrow();
        services.set_faults(Rc::clone(&self.faults));
        self.slirp
            .set_faults(Rc::clone(&self.faults), services.names());
    }

    pub(super) fn set_rules(&mut self, rules: Vec<Rule>) -> Result<Reply, RequestError> {
        let now = Instant::now();
        self.link
            .with_impairment(|impairment| impairment.set(rules, now))
            .ok_or(RequestError::Stopping)??;
        self.follow_rules();
        Ok(self.list_rules())
    }

    pub(super) fn add_rule(&mut self, rule: Rule) -> Result<Reply, RequestError> {
        let now = Instant::now();
        let added = self.link.with_impairment(|impairment| {
            let id = impairment.add(rule, now)?;
            let none = Faults::default();
            Ok(impairment
                .rules()
                .get(id, now)
                .map(|info| listed(info, &none)))
        });
        self.follow_rules();
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
        self.follow_rules();
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
        let rules = self.link.look_at_impairment(|impairment| {
            let rules = impairment.rules().list(now);
            rules.map(|info| listed(info, &self.faults)).collect()
        });
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

fn listed(info: RuleInfo<'_>, faults: &Faults) -> Impairment {
    let is_fault = matches!(info.rule.effect, Effect::Tcp(_) | Effect::Dns(_));
    Impairment {
        id: info.id,
        rule: info.rule.clone(),
        seed: info.seed,
        in_force: info.in_force,
        up: info.up,
        down: info.down,
        faults: is_fault.then(|| faults.hits(info.id)),
    }
}
