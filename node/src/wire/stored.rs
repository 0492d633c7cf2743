//! What only a volume sees.

use peernet_core::slot::{Frozen, SlotRecord};
use peernet_core::store::Identity;
use peernet_proto::v1;

use super::{Field, REPLICAS_MAX, Wire, WireError, counted, distinct, record, required};

record!(Frozen => v1::Frozen { epoch, awaiting }, check |f| {
    counted(f.epoch, 1, "Frozen.epoch")?;
    distinct(&f.awaiting, 0, REPLICAS_MAX, "Frozen.awaiting")
});

record!(SlotRecord => v1::SlotRecord { config, promised, accepted, frozen });

impl Wire for Identity {
    type Form = v1::Identity;

    fn to_wire(&self) -> v1::Identity {
        let Identity { network, member } = self;
        v1::Identity {
            network_id: network.put(),
            member: member.put(),
        }
    }

    fn from_wire(form: v1::Identity, _: &'static str) -> Result<Self, WireError> {
        let v1::Identity { network_id, member } = form;
        Ok(Identity {
            network: Field::take(network_id, "Identity.network_id")?,
            member: Field::take(member, "Identity.member")?,
        })
    }
}
