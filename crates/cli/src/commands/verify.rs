//! `mi colonies verify`: live checks of the isolation of a colony, from inside the platform, from a neighbour's side, and
//! from inside a throw-away agent.

mod chain;
mod foreign;
mod inside;
mod neighbour;
mod tokens;

use mi_proto::v1::{IsolationCheck, IsolationState, VerifyOfficeRequest};

use crate::{answer::ask, context::Context, failure::Failure, output::resource, text::word};
use neighbour::Neighbour;

/// What was tried so far, and what came of it.
#[derive(Default)]
struct Report(Vec<IsolationCheck>);

impl Report {
    /// A probe that has to fail: it worked (what it led to), or it did not (what stood in the way).
    fn refused(&mut self, layer: &str, probe: impl Into<String>, outcome: Result<String, String>) {
        let (state, detail) = match outcome {
            Ok(detail) => (IsolationState::Hole, detail),
            Err(detail) => (IsolationState::Holds, detail),
        };
        self.add(layer, probe, state, detail);
    }

    fn add(&mut self, layer: &str, probe: impl Into<String>, state: IsolationState, detail: impl Into<String>) {
        let (layer, probe, detail) = (layer.to_owned(), probe.into(), detail.into());
        self.0.push(IsolationCheck { layer, probe, state: state.into(), detail });
    }
}

resource!(IsolationCheck, "checks", |it| {
    "LAYER" => it.layer,
    "TRIED" => it.probe,
    "STATE" => word(it.state().as_str_name(), "ISOLATION_STATE_"),
    "SEEN" => it.detail,
});

/// Tries everything, prints the matrix, and fails when anything worked that must not.
pub(crate) async fn run(office_id: &str, context: &Context) -> Result<(), Failure> {
    let mut report = Report::default();
    let request = VerifyOfficeRequest { office_id: office_id.to_owned() };
    report.0.extend(ask!(context, offices.verify_office(request)).await?.checks);
    let neighbour = Neighbour::open(context).await?;
    let probed = probe(&mut report, &neighbour, office_id, context).await;
    // Whatever happened: nothing of the neighbour stays.
    let closed = neighbour.close(context).await;
    probed.and(closed)?;
    chain::verify(&mut report, office_id, context).await?;
    context.out.list(&report.0)?;
    let holes = report.0.iter().filter(|check| check.state() != IsolationState::Holds && !is_absent(check)).count();
    match holes {
        0 => Ok(()),
        holes => Err(Failure::new(format!("{holes} of {} probes got through", report.0.len()))
            .hint("docs/SECURITY.md says what each layer is for and what it needs")),
    }
}

fn is_absent(check: &IsolationCheck) -> bool {
    check.state() == IsolationState::Absent
}

async fn probe(report: &mut Report, neighbour: &Neighbour, office_id: &str, context: &Context) -> Result<(), Failure> {
    foreign::probe(report, neighbour, office_id).await?;
    inside::probe(report, neighbour, context).await?;
    // Last: it fires the neighbour's agent.
    tokens::probe(report, neighbour, context).await
}
