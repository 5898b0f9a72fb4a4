// The calls that a program written with the Go client makes, against the agent whose address is in
// CONSUL_HTTP_ADDR. Compiled and run by tests/clients/test_go_client.py.
package calls

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"reflect"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/hashicorp/consul/api/watch"
)

const node = "n1"

var patience = 20 * time.Second

func connect(t *testing.T) *api.Client {
	t.Helper()
	client, err := api.NewClient(api.DefaultConfig())
	must(t, err)
	return client
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func equal(t *testing.T, got, want interface{}) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got %#v, want %#v", got, want)
	}
}

func refused(t *testing.T, err error, with string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), with) {
		t.Fatalf("got error %v, want one with %q", err, with)
	}
}

// until polls a condition of the agent, with a deadline.
func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !condition(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not in time: " + what)
		}
	}
}

func put(t *testing.T, client *api.Client, key, value string) {
	t.Helper()
	_, err := client.KV().Put(&api.KVPair{Key: key, Value: []byte(value)}, nil)
	must(t, err)
}

func TestKV(t *testing.T) {
	client := connect(t)
	kv := client.KV()
	pair, _, err := kv.Get("kv/none", nil)
	must(t, err)
	equal(t, pair, (*api.KVPair)(nil))
	_, err = kv.Put(&api.KVPair{Key: "kv/a b/ä?&", Value: []byte{0, 255}, Flags: 1 << 63}, nil)
	must(t, err)
	put(t, client, "kv/c", "")
	pair, meta, err := kv.Get("kv/a b/ä?&", &api.QueryOptions{RequireConsistent: true})
	must(t, err)
	equal(t, pair.Value, []byte{0, 255})
	equal(t, pair.Flags, uint64(1<<63))
	equal(t, meta.LastIndex, pair.ModifyIndex)
	equal(t, meta.KnownLeader, true)
	pairs, _, err := kv.List("kv/", &api.QueryOptions{AllowStale: true})
	must(t, err)
	equal(t, len(pairs), 2)
	keys, _, err := kv.Keys("kv/", "/", nil)
	must(t, err)
	equal(t, keys, []string{"kv/a b/", "kv/c"})
	_, err = kv.Delete("kv/c", nil)
	must(t, err)
	_, err = kv.DeleteTree("kv/", nil)
	must(t, err)
	pairs, _, err = kv.List("kv/", nil)
	must(t, err)
	equal(t, len(pairs), 0)
}

func TestCheckAndSet(t *testing.T) {
	kv := connect(t).KV()
	pair := &api.KVPair{Key: "cas/k", Value: []byte("1")}
	for _, want := range []bool{true, false} {
		done, _, err := kv.CAS(pair, nil)
		must(t, err)
		equal(t, done, want)
	}
	stored, _, err := kv.Get(pair.Key, nil)
	must(t, err)
	changed := &api.KVPair{Key: pair.Key, Value: []byte("2"), ModifyIndex: stored.ModifyIndex}
	done, _, err := kv.CAS(changed, nil)
	must(t, err)
	equal(t, done, true)
	done, _, err = kv.DeleteCAS(stored, nil)
	must(t, err)
	equal(t, done, false)
	stored, _, err = kv.Get(pair.Key, nil)
	must(t, err)
	done, _, err = kv.DeleteCAS(stored, nil)
	must(t, err)
	equal(t, done, true)
}

func TestBlockingQuery(t *testing.T) {
	client := connect(t)
	put(t, client, "blocking/k", "1")
	_, meta, err := client.KV().Get("blocking/k", nil)
	must(t, err)
	values := make(chan string)
	go func() {
		options := &api.QueryOptions{WaitIndex: meta.LastIndex, WaitTime: patience}
		pair, _, err := client.KV().Get("blocking/k", options)
		if err != nil {
			values <- err.Error()
			return
		}
		values <- string(pair.Value)
	}()
	put(t, client, "blocking/k", "2")
	equal(t, <-values, "2")

	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(100*time.Millisecond, cancel)
	_, meta, err = client.KV().Get("blocking/k", nil)
	must(t, err)
	options := &api.QueryOptions{WaitIndex: meta.LastIndex}
	_, _, err = client.KV().Get("blocking/k", options.WithContext(ctx))
	equal(t, errors.Is(err, context.Canceled), true)
}

func TestTransactions(t *testing.T) {
	client := connect(t)
	ok, answer, _, err := client.KV().Txn(api.KVTxnOps{
		{Verb: api.KVCheckNotExists, Key: "txn/a"},
		{Verb: api.KVSet, Key: "txn/a", Value: []byte("v"), Flags: 7},
		{Verb: api.KVGet, Key: "txn/a"},
		{Verb: api.KVGetTree, Key: "txn/"},
	}, nil)
	must(t, err)
	equal(t, ok, true)
	equal(t, len(answer.Results), 3)
	equal(t, answer.Results[1].Value, []byte("v"))
	ok, answer, _, err = client.KV().Txn(api.KVTxnOps{
		{Verb: api.KVDelete, Key: "txn/a"},
		{Verb: api.KVCheckIndex, Key: "txn/a", Index: 1},
	}, nil)
	must(t, err)
	equal(t, ok, false)
	equal(t, answer.Errors[0].OpIndex, 1)
	ok, all, _, err := client.Txn().Txn(api.TxnOps{
		{Node: &api.NodeTxnOp{Verb: api.NodeSet, Node: api.Node{Node: "t1", Address: "10.9.9.1"}}},
		{Service: &api.ServiceTxnOp{Verb: api.ServiceSet, Node: "t1",
			Service: api.AgentService{ID: "s1", Service: "s", Port: 80}}},
		{Check: &api.CheckTxnOp{Verb: api.CheckSet, Check: api.HealthCheck{Node: "t1", CheckID: "c",
			ServiceID: "s1", Name: "c", Status: api.HealthPassing,
			Definition: api.HealthCheckDefinition{TCP: "x:80", IntervalDuration: 5 * time.Second}}}},
		{Check: &api.CheckTxnOp{Verb: api.CheckGet, Check: api.HealthCheck{Node: "t1", CheckID: "c"}}},
	}, nil)
	must(t, err)
	equal(t, ok, true)
	equal(t, all.Results[0].Node.Address, "10.9.9.1")
	equal(t, all.Results[1].Service.ID, "s1")
	equal(t, all.Results[3].Check.Definition.IntervalDuration, 5*time.Second)
	ok, _, _, err = client.Txn().Txn(api.TxnOps{
		{Node: &api.NodeTxnOp{Verb: api.NodeDelete, Node: api.Node{Node: "t1"}}},
	}, nil)
	must(t, err)
	equal(t, ok, true)
}

func TestSessions(t *testing.T) {
	client := connect(t)
	sessions := client.Session()
	id, _, err := sessions.Create(&api.SessionEntry{Name: "s", TTL: "10s", LockDelay: time.Second,
		Behavior: api.SessionBehaviorDelete, NodeChecks: []string{"serfHealth"}}, nil)
	must(t, err)
	entry, _, err := sessions.Info(id, nil)
	must(t, err)
	equal(t, []interface{}{entry.Name, entry.Node, entry.TTL, entry.LockDelay, entry.Behavior},
		[]interface{}{"s", node, "10s", time.Second, "delete"})
	bare, _, err := sessions.CreateNoChecks(&api.SessionEntry{Name: "bare"}, nil)
	must(t, err)
	listed, _, err := sessions.List(nil)
	must(t, err)
	ofNode, _, err := sessions.Node(node, nil)
	must(t, err)
	equal(t, []int{len(listed), len(ofNode)}, []int{2, 2})
	entry, _, err = sessions.Renew(id, nil)
	must(t, err)
	equal(t, entry.ID, id)
	done := make(chan struct{})
	ended := make(chan error)
	go func() { ended <- sessions.RenewPeriodic("10s", id, nil, done) }()
	close(done) // which destroys it as well
	must(t, <-ended)
	entry, _, err = sessions.Info(id, nil)
	must(t, err)
	equal(t, entry, (*api.SessionEntry)(nil))
	entry, _, err = sessions.Renew(id, nil)
	must(t, err)
	equal(t, entry, (*api.SessionEntry)(nil))
	equal(t, sessions.RenewPeriodic("100ms", id, nil, nil), api.ErrSessionExpired)
	_, err = sessions.Destroy(bare, nil)
	must(t, err)
}

func TestLock(t *testing.T) {
	client := connect(t)
	lock := func() *api.Lock {
		lock, err := client.LockOpts(&api.LockOptions{Key: "lock/k", LockDelay: time.Millisecond,
			LockWaitTime: time.Second, SessionTTL: "10s"})
		must(t, err)
		return lock
	}
	first, second := lock(), lock()
	lost, err := first.Lock(nil)
	must(t, err)
	_, err = first.Lock(nil)
	equal(t, err, api.ErrLockHeld)
	taken := make(chan error)
	go func() {
		_, err := second.Lock(nil)
		taken <- err
	}()
	select {
	case err := <-taken:
		t.Fatal("held twice", err)
	case <-time.After(200 * time.Millisecond):
	}
	must(t, first.Unlock())
	must(t, <-taken)
	<-lost
	equal(t, first.Destroy(), api.ErrLockInUse)
	must(t, second.Unlock())
	must(t, second.Destroy())

	lost, err = first.Lock(nil)
	must(t, err)
	pair, _, err := client.KV().Get("lock/k", nil)
	must(t, err)
	_, err = client.Session().Destroy(pair.Session, nil)
	must(t, err)
	select {
	case <-lost:
	case <-time.After(patience):
		t.Fatal("the holder did not notice that its session is gone")
	}
}

func TestSemaphore(t *testing.T) {
	client := connect(t)
	make := func() *api.Semaphore {
		semaphore, err := client.SemaphoreOpts(&api.SemaphoreOptions{Prefix: "semaphore/s", Limit: 2,
			SemaphoreTryOnce: true, SemaphoreWaitTime: 200 * time.Millisecond})
		must(t, err)
		return semaphore
	}
	first, second, third := make(), make(), make()
	for _, each := range []*api.Semaphore{first, second} {
		held, err := each.Acquire(nil)
		must(t, err)
		equal(t, held != nil, true)
	}
	held, err := third.Acquire(nil)
	must(t, err)
	equal(t, held == nil, true)
	must(t, first.Release())
	held, err = third.Acquire(nil)
	must(t, err)
	equal(t, held != nil, true)
	must(t, second.Release())
	must(t, third.Release())
	must(t, third.Destroy())
}

func TestAgentService(t *testing.T) {
	client := connect(t)
	agent := client.Agent()
	must(t, agent.ServiceRegister(&api.AgentServiceRegistration{
		ID: "web-1", Name: "web", Port: 80, Address: "10.1.2.3", Tags: []string{"v1", "blue"},
		Meta: map[string]string{"shard": "7"}, EnableTagOverride: true,
		TaggedAddresses: map[string]api.ServiceAddress{"wan": {Address: "198.51.100.7", Port: 81}},
		Weights:         &api.AgentWeights{Passing: 3, Warning: 1},
		Checks: api.AgentServiceChecks{
			{CheckID: "beat", Name: "a beat", TTL: "60s", Notes: "a heart"},
			{CheckID: "second", TTL: "60s", Status: api.HealthPassing},
		},
	}))
	service, _, err := agent.Service("web-1", nil)
	must(t, err)
	equal(t, service.Tags, []string{"v1", "blue"})
	equal(t, service.Weights, api.AgentWeights{Passing: 3, Warning: 1})
	equal(t, service.TaggedAddresses["wan"], api.ServiceAddress{Address: "198.51.100.7", Port: 81})
	_, meta, err := agent.Service("web-1", &api.QueryOptions{WaitHash: "none"})
	must(t, err)
	equal(t, meta.LastContentHash, service.ContentHash)
	services, err := agent.ServicesWithFilter(`Meta.shard == "7"`)
	must(t, err)
	equal(t, services["web-1"].EnableTagOverride, true)

	state := func() string {
		status, checks, err := agent.AgentHealthServiceByID("web-1")
		must(t, err)
		equal(t, checks.Service.Port, 80)
		return status
	}
	equal(t, state(), "critical")
	must(t, agent.UpdateTTL("beat", "as it should", api.HealthPassing))
	equal(t, state(), "passing")
	must(t, agent.WarnTTL("beat", "slow"))
	equal(t, state(), "warning")
	must(t, agent.FailTTL("beat", "dead"))
	must(t, agent.PassTTL("beat", "well"))
	checks, err := agent.ChecksWithFilter(`CheckID == "beat"`)
	must(t, err)
	equal(t, []string{checks["beat"].Output, checks["beat"].Notes, checks["beat"].Name},
		[]string{"well", "a heart", "a beat"})
	status, all, err := agent.AgentHealthServiceByName("web")
	must(t, err)
	equal(t, []interface{}{status, len(all), len(all[0].Checks)}, []interface{}{"passing", 1, 2})

	until(t, "the service passing in the catalog", func() bool {
		tags := []string{"blue", "v1"}
		found, _, err := client.Health().ServiceMultipleTags("web", tags, true, nil)
		must(t, err)
		return len(found) == 1 && found[0].Checks.AggregatedStatus() == api.HealthPassing
	})
	must(t, agent.EnableServiceMaintenance("web-1", "upgrade"))
	equal(t, state(), "critical") // what a 503 is to this client
	checks, err = agent.ChecksWithFilter(`ServiceID == "web-1" and Notes == "upgrade"`)
	must(t, err)
	equal(t, len(checks), 1)
	must(t, agent.DisableServiceMaintenance("web-1"))
	registration := &api.AgentServiceRegistration{ID: "web-1", Name: "web"}
	must(t, agent.ServiceRegisterOpts(registration, api.ServiceRegisterOpts{ReplaceExistingChecks: true}))
	_, alone, err := agent.AgentHealthServiceByID("web-1")
	must(t, err)
	equal(t, len(alone.Checks), 0)
	must(t, agent.ServiceDeregister("web-1"))
	_, _, err = agent.Service("web-1", nil)
	refused(t, err, "404")
}

func TestAgentChecks(t *testing.T) {
	agent := connect(t).Agent()
	address := os.Getenv("CONSUL_HTTP_ADDR")
	for id, check := range map[string]api.AgentServiceCheck{
		"http": {HTTP: "http://" + address + "/v1/status/leader", Method: "GET", Interval: "1s",
			Header: map[string][]string{"X-A": {"b"}}, Timeout: "5s"},
		"tcp":    {TCP: address, Interval: "1s"},
		"script": {Args: []string{"sh", "-c", "echo said"}, Interval: "1s"},
	} {
		must(t, agent.CheckRegister(&api.AgentCheckRegistration{ID: id, Name: id, AgentServiceCheck: check}))
	}
	until(t, "all passing", func() bool {
		checks, err := agent.Checks()
		must(t, err)
		passing := 0
		for _, check := range checks {
			if check.Status == api.HealthPassing {
				passing++
			}
		}
		return passing == 3
	})
	for _, id := range []string{"http", "tcp", "script"} {
		must(t, agent.CheckDeregister(id))
	}
	refused(t, agent.PassTTL("none", ""), `CheckID "none" does not have associated TTL`)
}

func TestAgentItself(t *testing.T) {
	client := connect(t)
	agent := client.Agent()
	name, err := agent.NodeName()
	must(t, err)
	equal(t, name, node)
	own, err := agent.Self()
	must(t, err)
	equal(t, own["Config"]["Datacenter"], "dc1")
	host, err := agent.Host()
	must(t, err)
	equal(t, host["Memory"] != nil, true)
	metrics, err := agent.Metrics()
	must(t, err)
	equal(t, len(metrics.Gauges) > 0, true)
	members, err := agent.Members(false)
	must(t, err)
	equal(t, []interface{}{len(members), members[0].Name, members[0].IsConsulServer()},
		[]interface{}{1, node, true})
	members, err = agent.MembersOpts(api.MembersOpts{WAN: true, Segment: api.AllSegments})
	must(t, err)
	equal(t, members[0].Name, node+".dc1")
	must(t, agent.Join(os.Getenv("AGENT_SERF_ADDR"), false))
	refused(t, agent.Join("127.0.0.1:1", false), "127.0.0.1")
	must(t, agent.Reload())
	must(t, agent.EnableNodeMaintenance("disk"))
	checks, err := agent.Checks()
	must(t, err)
	equal(t, checks[api.NodeMaint].Notes, "disk")
	must(t, agent.DisableNodeMaintenance())
	refused(t, agent.ForceLeave("nobody"), "nobody")
	leader, err := client.Status().Leader()
	must(t, err)
	peers, err := client.Status().Peers()
	must(t, err)
	equal(t, peers, []string{leader})
}

func TestMonitor(t *testing.T) {
	agent := connect(t).Agent()
	stop := make(chan struct{})
	lines, err := agent.Monitor("debug", stop, nil)
	must(t, err)
	provoked := time.NewTicker(100 * time.Millisecond)
	defer provoked.Stop()
	end := time.After(patience)
	for {
		select {
		case line := <-lines:
			equal(t, strings.Contains(line, "["), true)
			close(stop)
			return
		case <-provoked.C:
			must(t, agent.Reload())
		case <-end:
			t.Fatal("no line of the log")
		}
	}
}

func TestCatalogAndHealth(t *testing.T) {
	client := connect(t)
	catalog, health := client.Catalog(), client.Health()
	_, err := catalog.Register(&api.CatalogRegistration{
		ID: "11111111-2222-3333-4444-555555555555", Node: "outside", Address: "10.9.9.9",
		NodeMeta: map[string]string{"rack": "r9"}, TaggedAddresses: map[string]string{"lan": "10.9.9.9"},
		Service: &api.AgentService{ID: "r1", Service: "redis", Port: 6379, Tags: []string{"cache"}},
		Checks: api.HealthChecks{{Node: "outside", CheckID: "c", Name: "ping", ServiceID: "r1",
			Status: api.HealthWarning, Definition: api.HealthCheckDefinition{HTTP: "http://10.9.9.9/",
				IntervalDuration: 5 * time.Second, TimeoutDuration: time.Second}}},
	}, nil)
	must(t, err)
	datacenters, err := catalog.Datacenters()
	must(t, err)
	equal(t, datacenters, []string{"dc1"})
	nodes, _, err := catalog.Nodes(&api.QueryOptions{NodeMeta: map[string]string{"rack": "r9"}})
	must(t, err)
	equal(t, []interface{}{len(nodes), nodes[0].Node}, []interface{}{1, "outside"})
	nodes, _, err = catalog.Nodes(&api.QueryOptions{Near: "_agent", Filter: `Address != ""`})
	must(t, err)
	equal(t, []interface{}{len(nodes), nodes[0].Node}, []interface{}{2, node})
	services, _, err := catalog.Services(nil)
	must(t, err)
	equal(t, services["redis"], []string{"cache"})
	found, _, err := catalog.ServiceMultipleTags("redis", []string{"cache"}, nil)
	must(t, err)
	equal(t, []interface{}{len(found), found[0].Address, found[0].Checks},
		[]interface{}{1, "10.9.9.9", api.HealthChecks(nil)})
	connectable, _, err := catalog.Connect("redis", "", nil)
	must(t, err)
	equal(t, len(connectable), 0)
	one, _, err := catalog.Node("outside", nil)
	must(t, err)
	equal(t, []interface{}{one.Node.Meta["rack"], one.Services["r1"].Port}, []interface{}{"r9", 6379})
	list, _, err := catalog.NodeServiceList("outside", nil)
	must(t, err)
	equal(t, []interface{}{list.Node.Node, list.Services[0].ID}, []interface{}{"outside", "r1"})
	checks, _, err := health.Checks("redis", nil)
	must(t, err)
	equal(t, []interface{}{checks[0].Definition.IntervalDuration, checks[0].Definition.HTTP,
		checks.AggregatedStatus()}, []interface{}{5 * time.Second, "http://10.9.9.9/", "warning"})
	checks, _, err = health.Node("outside", nil)
	must(t, err)
	equal(t, len(checks), 1)
	checks, _, err = health.State("warning", nil)
	must(t, err)
	equal(t, len(checks), 1)
	entries, _, err := health.Service("redis", "cache", true, nil)
	must(t, err)
	equal(t, len(entries), 0)
	entries, _, err = health.Connect("redis", "", false, nil)
	must(t, err)
	equal(t, len(entries), 0)
	for _, gone := range []api.CatalogDeregistration{
		{Node: "outside", CheckID: "c"}, {Node: "outside", ServiceID: "r1"}, {Node: "outside"},
	} {
		gone := gone
		_, err = catalog.Deregister(&gone, nil)
		must(t, err)
	}
	one, _, err = catalog.Node("outside", nil)
	must(t, err)
	equal(t, one, (*api.CatalogNode)(nil))
}

func TestEvents(t *testing.T) {
	events := connect(t).Event()
	_, meta, err := events.List("deploy", nil)
	must(t, err)
	id, _, err := events.Fire(&api.UserEvent{Name: "deploy", Payload: []byte{0, 1}, NodeFilter: node}, nil)
	must(t, err)
	list, _, err := events.List("deploy", &api.QueryOptions{WaitIndex: meta.LastIndex, WaitTime: patience})
	must(t, err)
	equal(t, []interface{}{len(list), list[0].ID, list[0].Payload}, []interface{}{1, id, []byte{0, 1}})
	_, meta, err = events.List("deploy", nil)
	must(t, err)
	equal(t, meta.LastIndex, events.IDToIndex(id))
}

func TestPreparedQueries(t *testing.T) {
	client := connect(t)
	queries := client.PreparedQuery()
	must(t, client.Agent().ServiceRegister(&api.AgentServiceRegistration{Name: "q", Port: 80,
		Tags: []string{"blue"}, Meta: map[string]string{"a": "b"}}))
	definition := &api.PreparedQueryDefinition{
		Name: "find-q",
		Service: api.ServiceQuery{Service: "q", Near: "_agent", Tags: []string{"blue", "!red"},
			OnlyPassing: true, NodeMeta: map[string]string{"rack": "r1"},
			ServiceMeta: map[string]string{"a": "b"},
			Failover:    api.QueryDatacenterOptions{NearestN: 2, Datacenters: []string{"dc2"}}},
		DNS: api.QueryDNSOptions{TTL: "5s"},
	}
	id, _, err := queries.Create(definition, nil)
	must(t, err)
	definition.ID = id
	stored, _, err := queries.Get(id, nil)
	must(t, err)
	equal(t, stored[0], definition)
	until(t, "an answer", func() bool {
		answer, _, err := queries.Execute("find-q", nil)
		must(t, err)
		return len(answer.Nodes) == 1 && answer.Nodes[0].Service.Port == 80 && answer.DNS.TTL == "5s"
	})
	definition.Service.Tags = []string{"red"}
	definition.Service.Failover = api.QueryDatacenterOptions{}
	_, err = queries.Update(definition, nil)
	must(t, err)
	answer, _, err := queries.Execute(id, &api.QueryOptions{Near: node})
	must(t, err)
	equal(t, []interface{}{len(answer.Nodes), answer.Failovers}, []interface{}{0, 0})
	template, _, err := queries.Create(&api.PreparedQueryDefinition{
		Name:     "near-",
		Template: api.QueryTemplate{Type: "name_prefix_match", Regexp: "^near-(.*)$"},
		Service:  api.ServiceQuery{Service: "${match(1)}"},
	}, nil)
	must(t, err)
	answer, _, err = queries.Execute("near-q", nil)
	must(t, err)
	equal(t, answer.Service, "q")
	for _, each := range []string{id, template} {
		_, err = queries.Delete(each, nil)
		must(t, err)
	}
	list, _, err := queries.List(nil)
	must(t, err)
	equal(t, len(list), 0)
	must(t, client.Agent().ServiceDeregister("q"))
}

func TestCoordinates(t *testing.T) {
	coordinates := connect(t).Coordinate()
	datacenters, err := coordinates.Datacenters()
	must(t, err)
	equal(t, datacenters[0].Datacenter, "dc1")
	until(t, "coordinates", func() bool {
		entries, _, err := coordinates.Nodes(nil)
		must(t, err)
		return len(entries) > 0 && len(entries[0].Coord.Vec) == 8
	})
	entries, _, err := coordinates.Node(node, nil)
	must(t, err)
	entries[0].Coord.Vec[0] = 0.25
	_, err = coordinates.Update(entries[0], nil)
	must(t, err)
}

func TestConfigEntries(t *testing.T) {
	entries := connect(t).ConfigEntries()
	written := map[string]api.ConfigEntry{
		"service-defaults": &api.ServiceConfigEntry{Kind: api.ServiceDefaults, Name: "web", Protocol: "http"},
		"proxy-defaults": &api.ProxyConfigEntry{Kind: api.ProxyDefaults, Name: api.ProxyConfigGlobal,
			Config: map[string]interface{}{"protocol": "http", "limit": 7.0}},
		"service-resolver": &api.ServiceResolverConfigEntry{Kind: api.ServiceResolver, Name: "web",
			DefaultSubset: "v1", ConnectTimeout: 3 * time.Second,
			Subsets:  map[string]api.ServiceResolverSubset{"v1": {Filter: "Service.Meta.v == 1"}},
			Failover: map[string]api.ServiceResolverFailover{"*": {Datacenters: []string{"dc2"}}}},
		"service-splitter": &api.ServiceSplitterConfigEntry{Kind: api.ServiceSplitter, Name: "web",
			Splits: []api.ServiceSplit{{Weight: 90, ServiceSubset: "v1"}, {Weight: 10, Service: "other"}}},
		"service-router": &api.ServiceRouterConfigEntry{Kind: api.ServiceRouter, Name: "web",
			Routes: []api.ServiceRoute{{
				Match:       &api.ServiceRouteMatch{HTTP: &api.ServiceRouteHTTPMatch{PathPrefix: "/admin"}},
				Destination: &api.ServiceRouteDestination{Service: "other", RequestTimeout: time.Second}}}},
		"ingress-gateway": &api.IngressGatewayConfigEntry{Kind: api.IngressGateway, Name: "in",
			Listeners: []api.IngressListener{{Port: 8080, Protocol: "http",
				Services: []api.IngressService{{Name: "db"}}}}},
		"terminating-gateway": &api.TerminatingGatewayConfigEntry{Kind: api.TerminatingGateway, Name: "out",
			Services: []api.LinkedService{{Name: "external"}}},
	}
	// Each may need those before it.
	order := []string{"proxy-defaults", "service-defaults", "service-resolver", "service-splitter",
		"service-router", "ingress-gateway", "terminating-gateway"}
	equal(t, len(order), len(written))
	_, _, err := entries.Set(&api.ServiceConfigEntry{Kind: api.ServiceDefaults, Name: "other", Protocol: "http"}, nil)
	must(t, err)
	for _, kind := range order {
		entry := written[kind]
		done, _, err := entries.Set(entry, nil)
		if err != nil || !done {
			t.Fatal(kind, done, err)
		}
		stored, _, err := entries.Get(kind, entry.GetName(), nil)
		must(t, err)
		equal(t, reflect.TypeOf(stored), reflect.TypeOf(entry))
		equal(t, stored.GetName(), entry.GetName())
		done, _, err = entries.CAS(entry, stored.GetModifyIndex()-1, nil)
		must(t, err)
		equal(t, done, false)
		done, _, err = entries.CAS(entry, stored.GetModifyIndex(), nil)
		must(t, err)
		equal(t, done, true)
	}
	resolver, _, err := entries.Get("service-resolver", "web", nil)
	must(t, err)
	equal(t, resolver.(*api.ServiceResolverConfigEntry).ConnectTimeout, 3*time.Second)
	proxy, _, err := entries.Get("proxy-defaults", "global", nil)
	must(t, err)
	equal(t, proxy.(*api.ProxyConfigEntry).Config,
		map[string]interface{}{"protocol": "http", "limit": 7.0})
	list, _, err := entries.List("service-defaults", nil)
	must(t, err)
	equal(t, len(list), 2)
	for i := len(order) - 1; i >= 0; i-- {
		_, err = entries.Delete(order[i], written[order[i]].GetName(), nil)
		must(t, err)
	}
	_, _, err = entries.Get("service-defaults", "web", nil)
	refused(t, err, "404")
	_, err = entries.Delete("service-defaults", "other", nil)
	must(t, err)
}

func TestOperator(t *testing.T) {
	operator := connect(t).Operator()
	raft, err := operator.RaftGetConfiguration(nil)
	must(t, err)
	equal(t, []interface{}{len(raft.Servers), raft.Servers[0].Node, raft.Servers[0].Leader, raft.Servers[0].Voter},
		[]interface{}{1, node, true, true})
	refused(t, operator.RaftRemovePeerByAddress("127.0.0.1:1", nil), "not found")
	refused(t, operator.RaftRemovePeerByID("11111111-2222-3333-4444-555555555555", nil), "not found")
	settings, err := operator.AutopilotGetConfiguration(nil)
	must(t, err)
	equal(t, settings.ServerStabilizationTime.Duration(), 10*time.Second)
	settings.MaxTrailingLogs = 300
	must(t, operator.AutopilotSetConfiguration(settings, nil))
	done, err := operator.AutopilotCASConfiguration(settings, nil)
	must(t, err)
	equal(t, done, false) // its index is from before
	settings, err = operator.AutopilotGetConfiguration(nil)
	must(t, err)
	equal(t, settings.MaxTrailingLogs, uint64(300))
	done, err = operator.AutopilotCASConfiguration(settings, nil)
	must(t, err)
	equal(t, done, true)
	until(t, "a healthy cluster", func() bool {
		health, err := operator.AutopilotServerHealth(nil)
		return err == nil && health.Healthy && health.Servers[0].Voter
	})
	_, err = operator.KeyringList(nil)
	refused(t, err, "500") // without encryption
}

func TestSnapshot(t *testing.T) {
	client := connect(t)
	put(t, client, "snapshot/k", "before")
	stream, meta, err := client.Snapshot().Save(nil)
	must(t, err)
	saved, err := io.ReadAll(stream)
	must(t, err)
	must(t, stream.Close())
	equal(t, meta.LastIndex > 0, true)
	put(t, client, "snapshot/k", "after")
	must(t, client.Snapshot().Restore(nil, bytes.NewReader(saved)))
	until(t, "the state of the snapshot", func() bool {
		pair, _, err := client.KV().Get("snapshot/k", nil)
		return err == nil && string(pair.Value) == "before"
	})
	err = client.Snapshot().Restore(nil, strings.NewReader("no snapshot"))
	equal(t, err != nil, true)
}

// Each kind of watch tells first what there is, then what `change` made of it.
func TestWatchPlans(t *testing.T) {
	client := connect(t)
	register := func(name string) error {
		return client.Agent().ServiceRegister(&api.AgentServiceRegistration{Name: name,
			Check: &api.AgentServiceCheck{TTL: "60s"}})
	}
	write := func(name string) error {
		_, err := client.KV().Put(&api.KVPair{Key: name + "/k", Value: []byte("v")}, nil)
		return err
	}
	appear := func(name string) error {
		_, err := client.Catalog().Register(&api.CatalogRegistration{Node: name, Address: "10.1.1.1"}, nil)
		return err
	}
	fire := func(name string) error {
		_, _, err := client.Event().Fire(&api.UserEvent{Name: name}, nil)
		return err
	}
	for _, each := range []struct {
		kind, parameter, value string
		change                 func(name string) error
	}{
		{"key", "key", "watch-key/k", write},
		{"keyprefix", "prefix", "watch-keyprefix/", write},
		{"services", "", "", register},
		{"service", "service", "watch-service", register},
		{"checks", "service", "watch-checks", register},
		{"nodes", "", "", appear},
		{"event", "name", "watch-event", fire},
	} {
		t.Run(each.kind, func(t *testing.T) {
			parameters := map[string]interface{}{"type": each.kind}
			if each.parameter != "" {
				parameters[each.parameter] = each.value
			}
			plan, err := watch.Parse(parameters)
			must(t, err)
			seen := make(chan string, 100)
			plan.HybridHandler = func(_ watch.BlockingParamVal, value interface{}) {
				encoded, err := json.Marshal(value)
				if err != nil {
					encoded = []byte(err.Error())
				}
				seen <- string(encoded)
			}
			ended := make(chan error, 1)
			go func() { ended <- plan.RunWithClientAndHclog(client, nil) }()
			name := "watch-" + each.kind
			equal(t, strings.Contains(<-seen, name), false)
			must(t, each.change(name))
			end := time.After(patience)
			for last := ""; !strings.Contains(last, name); {
				select {
				case last = <-seen:
				case <-end:
					t.Fatal("the watch did not report the change, last: " + last)
				}
			}
			plan.Stop()
			must(t, <-ended)
		})
	}
	for _, each := range []string{"watch-services", "watch-service", "watch-checks"} {
		must(t, client.Agent().ServiceDeregister(each))
	}
	_, err := client.Catalog().Deregister(&api.CatalogDeregistration{Node: "watch-nodes"}, nil)
	must(t, err)
}

// Clients with connections of their own, as every process of a fleet has.
func TestManyClientsAtOnce(t *testing.T) {
	const clients = 20
	errs := make(chan error, clients)
	for i := 0; i < clients; i++ {
		i := i
		go func() {
			config := api.DefaultConfig()
			config.Transport.DialContext = (&net.Dialer{Timeout: patience}).DialContext
			client, err := api.NewClient(config)
			for n := 0; err == nil && n < 10; n++ {
				_, err = client.KV().Put(&api.KVPair{Key: fmt.Sprintf("many/%02d", i), Value: []byte{byte(n)}}, nil)
			}
			errs <- err
		}()
	}
	for i := 0; i < clients; i++ {
		must(t, <-errs)
	}
	client := connect(t)
	pairs, _, err := client.KV().List("many/", nil)
	must(t, err)
	equal(t, len(pairs), clients)
	equal(t, sort.SliceIsSorted(pairs, func(a, b int) bool { return pairs[a].Key < pairs[b].Key }), true)
}
