"""The services and checks of this node: the truth that the catalog is kept equal to.

`state.LocalState` is what the rest of the agent holds: it takes registrations (from files and over
HTTP), turns check definitions into running checks, takes their results, and remembers what must
survive a restart. What of it the catalog does not have yet is marked, and
`registry.agent.anti_entropy` brings it there.

    settings          the agent's settings that all of this depends on
    records           what is registered, by id, and who waits for a change of it
    check_factory     a definition judged, completed and given its runner
    registrations     one change at a time: judged, kept on disk, put in place
    file_definitions  what files define, as a difference to what is there
    maintenance       services and the node out of service and back
    restoring         files and what was kept, after a restart
    keeping           what survives a restart, if there is a data directory
    installer         putting in place and taking out, with all that hangs on it
    check_runs        the runners of checks, and what they are lent
    check_states      status and output of checks, and who may set them
    deferred_outputs  output that changed alone and is written to the catalog later
    sync_marks        what the catalog does not have yet
    reaper            services that stay critical are given up

Life of a registration: completed (`registry.agent.services`), its checks' runners made (which is
where bad settings are refused), written to the data directory, put in place, runners started; then
the caller awaits `LocalState.flush`, so that a reader of the catalog who is told "done" also sees
it.
"""
