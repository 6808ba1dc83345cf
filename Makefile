# Roster's one Makefile.
#
#   make            build/roster, build/roster-coordinator,
#                   build/roster-expert-node, build/libroster.a and .so
#   make run        install what is missing, build, tell a story
#   make run-cluster    the same with etcd, and a node that joins and leaves
#   make test       install what is missing, build, run every test
#   make asan|tsan  the tests under a sanitizer, in a build folder of their own
#   make chaos      MINUTES=10 SEED=1   a rack on machines of its own, and faults
#   make planted    bugs on purpose, each of which a test must catch
#   make deps       the set-up alone
#   make install    PREFIX=/usr/local DESTDIR=
#   make format     clang-format over the tree
#
# Sources are found by folder: a new .c file needs no line here.  Files named
# *_avx2.c and *_avx512.c get their instruction sets; every object depends on the
# headers it included (-MMD).

VERSION := 0.1.0
SOVERSION := 0

VARIANT ?=
B := build$(if $(VARIANT),/$(VARIANT))
PREFIX ?= /usr/local
LIBDIR ?= $(PREFIX)/lib
BINDIR ?= $(PREFIX)/bin
INCLUDEDIR ?= $(PREFIX)/include
CC ?= gcc
WERROR ?= -Werror
OPT ?= -O2

ifeq ($(MAKELEVEL),0)
MAKEFLAGS += -j$(shell nproc)
endif
MAKEFLAGS += --no-builtin-rules
.DEFAULT_GOAL := all

SANITIZE_asan := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
SANITIZE_tsan := -fsanitize=thread -fno-omit-frame-pointer
SANITIZE_fuzz := -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined
SANITIZE := $(SANITIZE_$(VARIANT))

# -ffp-contract=off and no fast-math: the numerics contract (docs/architecture.md).
CFLAGS_ALL = -std=gnu11 -D_GNU_SOURCE -DROSTER_VERSION='"$(VERSION)"' $(OPT) -g \
	-fPIC -ffp-contract=off -fno-math-errno -fvisibility=hidden \
	-Wall -Wextra -Wpedantic -Wshadow -Wstrict-prototypes \
	-Wmissing-prototypes -Wno-unknown-pragmas $(WERROR) \
	-I. -I$(B)/gen $(SANITIZE) $(CFLAGS)
LDFLAGS_ALL = $(SANITIZE) -Wl,--as-needed $(LDFLAGS)
# (clang takes minutes a file to instrument the kernels for undefined behaviour)
AVX2 := -mavx2 -mfma -mf16c $(if $(filter fuzz,$(VARIANT)),-fno-sanitize=undefined)
AVX512 := $(AVX2) -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni

LIBS := -lzmq -lprotobuf-c -luv -lpcre2-8 -lutf8proc -lxxhash -lcrypto -lcurl -ljansson -lhwloc -lm -lpthread -ldl

# ---- sources ----
PROTO_GEN := $(B)/gen/proto/roster.pb-c
engine_SRC := $(wildcard engine/*.c)
proto_SRC := $(wildcard proto/*.c)
discovery_SRC := $(wildcard discovery/*.c)
libetcd_SRC := $(wildcard discovery/libetcd/*.c)
coordinator_SRC := $(filter-out coordinator/main.c,$(wildcard coordinator/*.c))
expert_node_SRC := $(filter-out expert_node/main.c,$(wildcard expert_node/*.c))
libroster_SRC := $(wildcard client/lib/*.c)
client_SRC := $(filter-out client/main.c,$(wildcard client/*.c))
sim_SRC := $(filter-out tests/sim/test_%.c,$(wildcard tests/sim/*.c))
support_SRC := $(wildcard tests/support/*.c)
# what libroster takes along from the engine: nothing that computes
libroster_ENGINE := engine/err.c engine/util.c engine/failpoint.c

obj = $(patsubst %.c,$(B)/obj/%.o,$(1))
PROTO_OBJ := $(call obj,$(proto_SRC)) $(PROTO_GEN).o

LIBENGINE := $(B)/lib/libengine.a
LIBPROTO := $(B)/lib/libproto.a
LIBDISCOVERY := $(B)/lib/libdiscovery.a
LIBETCD := $(B)/libetcd.a
LIBCOORDINATOR := $(B)/lib/libcoordinator.a
LIBNODE := $(B)/lib/libexpertnode.a
LIBCLIENT := $(B)/lib/libclient.a
LIBSUPPORT := $(B)/lib/libsupport.a
PROGRAMS := $(B)/roster $(B)/roster-coordinator $(B)/roster-expert-node
LIBROSTER := $(B)/libroster.a $(B)/libroster.so

UNIT := $(patsubst tests/%.c,$(B)/tests/%,$(wildcard tests/unit/test_*.c))
SIM := $(patsubst tests/%.c,$(B)/tests/%,$(wildcard tests/sim/test_*.c))
MEMORY := $(patsubst tests/%.c,$(B)/tests/%,$(wildcard tests/memory/test_*.c))
GOLDEN := $(patsubst tests/%.c,$(B)/tests/%,$(wildcard tests/golden/test_*.c))
CLUSTER := $(patsubst tests/%.c,$(B)/tests/%,$(wildcard tests/cluster/test_*.c))
BENCH := $(patsubst tests/%.c,$(B)/tests/%,$(wildcard tests/bench/*.c))
TOOLS := $(patsubst tests/tools/%.c,$(B)/tests/tools/%,$(wildcard tests/tools/*.c))
proxy_SRC := tests/chaos/fault_proxy.c $(wildcard tests/chaos/proxy_*.c)
CHAOS := $(B)/tests/chaos/fault_proxy $(B)/tests/chaos/story_load

.PHONY: all deps deps-test run run-cluster test test-build asan tsan install uninstall \
	soak-etcd soak-leaders chaos soak-chaos planted \
	format format-check clean sim bench bench-programs fuzz fuzz-run
.SECONDARY:
.DELETE_ON_ERROR:

all: $(PROGRAMS) $(LIBROSTER)
	@:

# ---- compiling ----
QUIET := @
$(B)/obj/%_avx2.o: %_avx2.c
	@mkdir -p $(@D) && echo "  CC $<"
	$(QUIET)$(CC) $(CFLAGS_ALL) $(AVX2) -MMD -MP -c $< -o $@
$(B)/obj/%_avx512.o: %_avx512.c
	@mkdir -p $(@D) && echo "  CC $<"
	$(QUIET)$(CC) $(CFLAGS_ALL) $(AVX512) -MMD -MP -c $< -o $@
$(B)/obj/%.o: %.c | $(PROTO_GEN).h
	@mkdir -p $(@D) && echo "  CC $<"
	$(QUIET)$(CC) $(CFLAGS_ALL) -MMD -MP -c $< -o $@

$(PROTO_GEN).c: proto/roster.proto
	@mkdir -p $(@D) && echo "  PROTOC $<"
	$(QUIET)protoc-c --c_out=$(B)/gen proto/roster.proto
$(PROTO_GEN).h: $(PROTO_GEN).c ;
$(PROTO_GEN).o: $(PROTO_GEN).c
	@echo "  CC $<"
	$(QUIET)$(CC) $(CFLAGS_ALL) -w -c $< -o $@

# ---- libraries and programs ----
define archive
	@mkdir -p $(@D) && rm -f $@
	$(QUIET)ar rcs $@ $^
endef
$(LIBENGINE): $(call obj,$(engine_SRC)); $(archive)
$(LIBPROTO): $(PROTO_OBJ); $(archive)
$(LIBDISCOVERY): $(call obj,$(discovery_SRC)); $(archive)
# a library of its own, free of Roster's types
$(LIBETCD): $(call obj,$(libetcd_SRC)); $(archive)
$(LIBCOORDINATOR): $(call obj,$(coordinator_SRC)); $(archive)
$(LIBNODE): $(call obj,$(expert_node_SRC)); $(archive)
$(LIBCLIENT): $(call obj,$(client_SRC)); $(archive)
$(LIBSUPPORT): $(call obj,$(support_SRC)); $(archive)

# nor what needs the daemons' event loop
LIBROSTER_OBJ := $(call obj,$(libroster_SRC) $(libroster_ENGINE) \
	$(filter-out proto/zmq_watch.c proto/bulk_server.c,$(proto_SRC))) $(PROTO_GEN).o
$(B)/libroster.a: $(LIBROSTER_OBJ)
	@echo "  AR $@"
	$(archive)
$(B)/libroster.so: $(LIBROSTER_OBJ) client/lib/libroster.map
	@echo "  LD $@"
	$(QUIET)$(CC) -shared $(LDFLAGS_ALL) $(if $(SANITIZE),,-Wl,-z,defs) -Wl,-soname,libroster.so.$(SOVERSION) \
		-Wl,--version-script=client/lib/libroster.map -o $@ $(LIBROSTER_OBJ) \
		-lzmq -lprotobuf-c -lxxhash -lpthread
	$(QUIET)ln -sf libroster.so $(B)/libroster.so.$(SOVERSION)

define link
	@mkdir -p $(@D) && echo "  LD $@"
	$(QUIET)$(CC) $(LDFLAGS_ALL) -o $@ $(filter %.o,$^) -Wl,--start-group $(filter %.a,$^) -Wl,--end-group $(LIBS) $(1)
endef
$(B)/roster-coordinator: $(B)/obj/coordinator/main.o $(LIBCOORDINATOR) $(LIBDISCOVERY) $(LIBETCD) $(LIBPROTO) $(LIBENGINE)
	$(call link)
$(B)/roster-expert-node: $(B)/obj/expert_node/main.o $(LIBNODE) $(LIBDISCOVERY) $(LIBETCD) $(LIBPROTO) $(LIBENGINE)
	$(call link)
$(B)/roster: $(B)/obj/client/main.o $(LIBCLIENT) $(LIBDISCOVERY) $(LIBETCD) $(B)/libroster.a $(LIBENGINE)
	$(call link)

# ---- tests ----
TEST_LIBS := $(LIBSUPPORT) $(LIBCLIENT) $(LIBCOORDINATOR) $(LIBNODE) $(LIBDISCOVERY) $(LIBETCD) $(B)/libroster.a $(LIBPROTO) $(LIBENGINE)
$(UNIT) $(MEMORY) $(GOLDEN) $(CLUSTER) $(BENCH): $(B)/tests/%: $(B)/obj/tests/%.o $(TEST_LIBS)
	$(call link,-lcmocka)
$(SIM): $(B)/tests/sim/%: $(B)/obj/tests/sim/%.o $(call obj,$(sim_SRC)) $(TEST_LIBS)
	$(call link,-lcmocka)
$(TOOLS): $(B)/tests/tools/%: $(B)/obj/tests/tools/%.o $(LIBSUPPORT) $(B)/libroster.a $(LIBPROTO) $(LIBENGINE)
	$(call link)

$(B)/tests/chaos/fault_proxy: $(call obj,$(proxy_SRC)) $(LIBENGINE)
	$(call link)
$(B)/tests/chaos/story_load: $(B)/obj/tests/chaos/story_load.o $(B)/libroster.a $(LIBENGINE)
	$(call link)

test-build: all $(UNIT) $(SIM) $(MEMORY) $(GOLDEN) $(CLUSTER) $(TOOLS) $(CHAOS)
	@:

test: deps-test
	@$(MAKE) --no-print-directory test-build
	@tests/run.py --build $(B)

asan:
	@$(MAKE) --no-print-directory deps-test
	@$(MAKE) --no-print-directory VARIANT=asan test-build
	@ROSTER_TEST_QUICK=1 tests/run.py --build build/asan
tsan:
	@$(MAKE) --no-print-directory deps-test
	@$(MAKE) --no-print-directory VARIANT=tsan test-build
	@ROSTER_TEST_QUICK=1 ROSTER_SHUFFLES=1 SIM_SEEDS=6 tests/run.py --build build/tsan --only unit,sim,memory

# Every fuzz target for FUZZ_SECONDS, from the seeds of tests/fuzz/seeds/<target>
# and what earlier runs found, which is kept in build/fuzz/corpus.  A finding
# stops it.
FUZZ_SECONDS ?= 20
FUZZ := $(patsubst tests/%.c,$(B)/tests/%,$(wildcard tests/fuzz/fuzz_*.c))
fuzz:
	@deploy/deps.sh build test fuzz
	@$(MAKE) --no-print-directory VARIANT=fuzz CC=clang WERROR= fuzz-run
fuzz-run: $(FUZZ)
	@for target in $(FUZZ); do \
		corpus=$(B)/corpus/$$(basename $$target); mkdir -p $$corpus; \
		seeds=tests/fuzz/seeds/$$(basename $$target); \
		echo "  FUZZ $$target"; \
		$$target -max_total_time=$(FUZZ_SECONDS) -print_final_stats=1 \
			-artifact_prefix=$$corpus- $$corpus $$(ls -d $$seeds 2>/dev/null) \
			2>$$corpus.log \
			|| { tail -n 40 $$corpus.log; exit 1; }; \
		grep -E "number_of_executed_units" $$corpus.log; \
	done
$(FUZZ): $(B)/tests/fuzz/%: $(B)/obj/tests/fuzz/%.o $(TEST_LIBS)
	$(call link,-fsanitize=fuzzer)

# What tests/bench/bench_speed.py runs.
bench-programs: all $(BENCH) $(CHAOS)
bench: bench-programs
	@for program in $(BENCH); do $$program; done

# Seeds of the simulated rack, from 1 on, by all CPUs: SEEDS=N (10,000).
sim: $(SIM)
	@$(B)/tests/sim/test_sim --seeds 1-$(or $(SEEDS),10000)

deps:
	@deploy/deps.sh build
deps-test:
	@deploy/deps.sh build test

run: deps
	@$(MAKE) --no-print-directory all
	@deploy/run.sh $(B)
run-cluster:
	@deploy/deps.sh build cluster
	@$(MAKE) --no-print-directory all
	@deploy/run-cluster.sh $(B)

# Long proofs with real processes and a real etcd; each prints a dated record.
# ROSTER_SOAK_SECONDS=600: etcd is away for so long.  N=200: so many leaders
# oversleep.
soak-etcd: SOAK := test_rack_etcd
soak-leaders: SOAK := test_rack_leaders
soak-etcd soak-leaders: deps-test
	@$(MAKE) --no-print-directory test-build
	@ROSTER_SOAK=1 ROSTER_SOAK_TIMES=$(or $(N),50) ROSTER_SUITE_SECONDS=14400 \
		tests/run.py --build $(B) --only cluster -k $(SOAK)

# Faults on machines of its own (needs root), for MINUTES or until so many
# FAULTS and REQUESTS: tests/chaos/chaos.py.  soak-chaos is the long proof.
SEED ?= $(shell date +%s)
FAULTS ?= 300
REQUESTS ?= 2000
chaos: CHAOS_LENGTH = --minutes $(or $(MINUTES),10)
soak-chaos: CHAOS_LENGTH = --faults $(FAULTS) --requests $(REQUESTS)
chaos soak-chaos: deps-test
	@$(MAKE) --no-print-directory all $(CHAOS)
	@ROSTER_BUILD=$(B) tests/chaos/chaos.py --seed $(SEED) $(CHAOS_LENGTH) --verbose

# Every bug of tests/planted/ in a copy of the tree; a test must catch it.
planted: deps-test
	@$(MAKE) --no-print-directory test-build
	@tests/planted/planted.py $(PLANTS)

# ---- installing ----
install: all
	install -d $(DESTDIR)$(BINDIR) $(DESTDIR)$(LIBDIR)/pkgconfig $(DESTDIR)$(INCLUDEDIR)
	install -m 755 $(PROGRAMS) $(DESTDIR)$(BINDIR)
	install -m 644 $(B)/libroster.a $(DESTDIR)$(LIBDIR)
	install -m 755 $(B)/libroster.so $(DESTDIR)$(LIBDIR)/libroster.so.$(VERSION)
	ln -sf libroster.so.$(VERSION) $(DESTDIR)$(LIBDIR)/libroster.so.$(SOVERSION)
	ln -sf libroster.so.$(SOVERSION) $(DESTDIR)$(LIBDIR)/libroster.so
	install -m 644 client/include/roster.h $(DESTDIR)$(INCLUDEDIR)
	sed -e 's|@PREFIX@|$(PREFIX)|; s|@LIBDIR@|$(LIBDIR)|; s|@INCLUDEDIR@|$(INCLUDEDIR)|; s|@VERSION@|$(VERSION)|' \
		client/lib/roster.pc.in > $(DESTDIR)$(LIBDIR)/pkgconfig/roster.pc
uninstall:
	rm -f $(addprefix $(DESTDIR)$(BINDIR)/,roster roster-coordinator roster-expert-node) \
		$(DESTDIR)$(LIBDIR)/libroster.* $(DESTDIR)$(INCLUDEDIR)/roster.h \
		$(DESTDIR)$(LIBDIR)/pkgconfig/roster.pc

C_FILES = $(shell git ls-files '*.c' '*.h')
format:
	clang-format -i $(C_FILES)
format-check:
	clang-format --dry-run -Werror $(C_FILES)

clean:
	rm -rf build

-include $(shell find $(B)/obj -name '*.d' 2>/dev/null)
