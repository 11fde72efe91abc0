//! The device of one side: brought up, shown, and taken away unless somebody holds it.

use drqm_engine::Event;
use drqm_engine::event::Holder;

use crate::world::{Action, Device, World};

impl World {
    pub(crate) fn open_device(&mut self, n: usize, format: bool) {
        self.nodes[n].device = Device::Private;
        if format {
            self.make_file_system(n);
        } else {
            let delay = self.latency();
            self.at(delay, n, Action::Opened);
        }
    }

    pub(crate) fn device_ready(&mut self, n: usize) {
        let result = Ok(crate::guest::signature(&self.nodes[n].data.read(0, 4096)));
        self.step(n, Event::DeviceOpened { result });
    }

    pub(crate) fn published(&mut self, n: usize) {
        if self.nodes[n].device != Device::Private {
            return;
        }
        self.nodes[n].device = Device::Published;
        self.note(|| format!("{n}: device published"));
        self.check_publication(n);
        self.user_goes_on(n);
        self.step(n, Event::DevicePublished { result: Ok(()) });
    }

    pub(crate) fn closed(&mut self, n: usize) {
        let guest = &self.nodes[n].guest;
        let held = self.nodes[n].device == Device::Published
            && (guest.running || !guest.outstanding.is_empty());
        let result = if held {
            Err(Holder("the user".to_owned()))
        } else {
            self.nodes[n].device = Device::Closed;
            Ok(())
        };
        self.step(n, Event::DeviceClosed { result });
    }
}
