"""Segmentation networks: the eight of the pre-training study, their small sizes, and any of smp or timm by name.

    building.build(name, classes, bands, auxiliary)     a `network.Network`: backbone, neck, head, auxiliary head
    transfer.load_parts(network, state, what)           weights of another run: overall, backbone or head
    groups.parameter_groups(network, schedule)          what an optimiser takes; `schedules.Schedule` has the learning rate
    counting.cost(name)                                 parameters and FLOPs, counted without memory on the meta device

`catalogue` and `schedules` load no torch. Settings are those of mmsegmentation's configurations, which the study used.
"""
