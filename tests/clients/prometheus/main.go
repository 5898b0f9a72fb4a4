// Command discover is Prometheus' own Consul discovery in a process of its own: its configuration is
// a list of consul_sd_configs, and what it finds goes to a file that a prometheus reads by
// file_sd_configs. Debian builds its prometheus without this discovery.
//
//	discover CONSUL_SD_CONFIGS.yml TARGETS.json
package main

import (
	"context"
	"encoding/json"
	"log"
	"os"

	kitlog "github.com/go-kit/log"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/discovery/consul"
	"github.com/prometheus/prometheus/discovery/targetgroup"
	"gopkg.in/yaml.v2"
)

type entry struct {
	Targets []string       `json:"targets"`
	Labels  model.LabelSet `json:"labels"`
}

func main() {
	text, err := os.ReadFile(os.Args[1])
	fatal(err)
	var configs []*consul.SDConfig
	fatal(yaml.UnmarshalStrict(text, &configs))
	updates := make(chan []*targetgroup.Group)
	for _, config := range configs {
		discovery, err := consul.NewDiscovery(config, kitlog.NewLogfmtLogger(os.Stderr))
		fatal(err)
		go discovery.Run(context.Background(), updates)
	}
	groups := map[string]*targetgroup.Group{}
	for update := range updates {
		for _, group := range update {
			groups[group.Source] = group
		}
		fatal(write(os.Args[2], groups))
	}
}

// write replaces the file at once, so that no reader sees half of it.
func write(path string, groups map[string]*targetgroup.Group) error {
	entries := []entry{}
	for _, group := range groups {
		for _, target := range group.Targets {
			labels := group.Labels.Merge(target)
			delete(labels, model.AddressLabel)
			address := string(target[model.AddressLabel])
			entries = append(entries, entry{Targets: []string{address}, Labels: labels})
		}
	}
	text, err := json.Marshal(entries)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", text, 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func fatal(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
