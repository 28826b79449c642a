//! `gw serve`: from links to a gateway that serves.

use super::open::{Opened, adopt, open};
use super::{LinkError, LinkSpec};
use crate::cli::messages::{Audience, Voice};
use crate::cli::serve::{carry, prepare};
use crate::cli::{Exit, Failure, summary};
use crate::config::{Config, Configure};
use crate::forward::ForwardInfo;
use crate::gateway::{End, Inherited};
use crate::tap::Medium;

/// Serves whoever is behind `links` until somebody says stop, or the only link
/// has ended and cannot come back.
pub(in crate::cli) fn serve(
    config: &Config,
    links: &[LinkSpec],
    voice: Voice,
) -> Result<Exit, Failure> {
    let descriptors: Vec<_> = links.iter().flat_map(LinkSpec::descriptors).collect();
    let (mut starter, ending) = prepare(config, &descriptors, voice)?;
    let adopted = adopt(links)?;
    let Opened {
        link,
        medium,
        watch,
        warnings,
        helpers,
    } = open(links, adopted, config)?;
    let config = &for_medium(config, medium);
    let inherited = Inherited {
        passed: starter.take_passed(),
        sinks: starter.take_sinks(),
        ..Inherited::default()
    };
    let ready = |forwards: &[ForwardInfo]| {
        starter.announce(&status(links), &warnings, voice);
        match voice.audience() {
            Audience::Person => voice.show(&summary::links_block(config, links, forwards)),
            Audience::Log => {
                tracing::info!("serving {}", summary::links_line(config, links, forwards));
            }
            Audience::Nobody => {}
        }
        drop(helpers);
    };
    let stop = ending.happened(watch.as_ref());
    let ended = carry(config, link, inherited, || Ok(()), ready, stop)?;
    starter.tell(&ended, voice);
    match ended.end {
        End::Asked(_) => Ok(Exit::Success),
        End::LinkGone(reason) => Err(Failure::LinkEnded {
            link: links.iter().map(ToString::to_string).collect(),
            reason,
        }),
    }
}

/// A descriptor may turn out to be a TUN; who is behind it knows no DHCP.
fn for_medium(config: &Config, medium: Medium) -> Config {
    let mut config = config.clone();
    if medium == Medium::Ip {
        config.interface.configure = Configure::Static;
    }
    config
}

fn status(links: &[LinkSpec]) -> String {
    match links {
        [link] => format!("Serving {link}"),
        links => format!("Serving {} links", links.len()),
    }
}

impl From<LinkError> for Failure {
    fn from(error: LinkError) -> Self {
        Self::Link(Box::new(error))
    }
}
