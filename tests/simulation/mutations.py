"""The changes that `make mutants` makes to the engine: each takes one check or one write away."""

# ruff: noqa: E501  the texts are lines of scripts

from __future__ import annotations

from dataclasses import dataclass

LUA = "celery_app/store/lua"
Edit = tuple[str, str, str]  # file, text that is there once, what stands there instead


@dataclass(frozen=True)
class Mutation:
    """A broken engine."""

    name: str
    what: str
    edits: tuple[Edit, ...]
    harmless: str = ""  # why nothing need notice it


GONE_WITH_IT = "a run and its open steps go in one script, so that the check before it finds no step"
NAMED_BY_COMMIT = "the cache is asked by the last commit, too, and one in vain is never that"


def _lua(name: str, what: str, script: str, old: str, new: str = "", harmless: str = "") -> Mutation:
    return Mutation(name, what, ((f"{LUA}/{script}.lua", old, new),), harmless)


_NO_CLAIM: Edit = (
    f"{LUA}/commit.lua",
    "  return redis.error_reply('FENCED instance ' .. id .. ' is no longer held by claim ' .. c.claim)\n",
    "",
)
_NO_LENGTH: Edit = (f"{LUA}/commit.lua", "if r[2] ~= execution or length ~= c.base then", "if false then")

MUTATIONS = (
    Mutation("commit-no-claim", "commit does not ask whose claim it is", (_NO_CLAIM,)),
    Mutation("commit-no-length", "commit does not ask how long the history is", (_NO_LENGTH,)),
    Mutation("commit-no-fence", "commit asks for neither", (_NO_CLAIM, _NO_LENGTH)),
    _lua("commit-eats", "commit takes one item too many from the inbox", "commit_steps",
         "'LTRIM', inbox .. id, commit.inbox, -1", "'LTRIM', inbox .. id, commit.inbox + 1, -1"),
    _lua("commit-not-ready", "commit does not make an instance with unread items ready again", "commit",
         "local ready_again = has_work(id, suspended)", "local ready_again = false"),
    _lua("claim-lapsed", "claim lets in who does not beat", "claim",
         "if not beat or tonumber(beat) <= now then", "if false then"),
    _lua("take-living-holder", "take ignores that another living worker holds the step", "take",
         "if lapses and tonumber(lapses) > 0 then return false end"),
    _lua("take-any-attempt", "take lets an attempt in that is not the current one", "take",
         "if not is_current(state, attempt) then return false end", "if not state then return false end"),
    _lua("take-condemned", "take lets a condemned worker in", "take",
         "if not score or tonumber(score) <= 0 then", "if false then"),
    _lua("complete-stale", "complete takes the failure of an older attempt", "complete",
         "if not success and string.match(value, '^%d+') ~= attempt then return 'STALE' end"),
    _lua("complete-twice", "complete leaves a single step open", "complete",
         "forget_step(key, seq)", "if gseq then forget_step(key, seq) end"),
    _lua("part-twice", "complete leaves the part of a group open, so that it counts twice", "complete",
         "forget_step(key, seq)", "if not gseq then forget_step(key, seq) end"),
    _lua("complete-old-run", "complete does not ask whether the run is still this one", "complete",
         "if record[2] ~= execution then return 'GONE' end", harmless=GONE_WITH_IT),
    _lua("window-lost", "the next window of a group is not asked for", "groups",
         "if wanted then redis.call('RPUSH', inbox .. id, 'E' .. gseq) end"),
    _lua("retry-not-parked", "the next attempt is put nowhere", "retry",
         "redis.call('ZADD', parked, string.format('%.0f', due), member)\n"),
    _lua("retry-stale", "retry takes the failure of an older attempt", "retry",
         "if current ~= attempt then return 'STALE' end"),
    _lua("promote-any", "promote does not ask whether the step waits for this retry", "promote",
         "if not is_current(state, attempt) or not string.find(state, '^%d+|p') then return false end",
         "if not state then return false end"),
    _lua("sweep-keeps-claims", "sweep forgets the claims of a dead orchestrator", "sweep",
         "if r[1] and string.match(r[1], '^(.*)%.%d+$') == incarnation then", "if false then"),
    _lua("sweep-not-ready", "sweep returns claims, and nobody can claim them", "sweep",
         "      redis.call('ZADD', ready, now_s, id)\n"),
    _lua("sweep-closing", "sweep drops the children of a parent that ended", "sweep",
         "if verb then close_one(verb, execution, id, rest) end"),
    _lua("flights-kept", "what a dead worker held is not given back", "sweep_flights",
         "give_back_fields(incarnation, fields, true, started, most)", "0"),
    _lua("silence-condemns", "leases that lapsed while Redis was away count as lapsed", "heard",
         "    prolong(last, function(score) return math.max(score, till) end)\n"),
    _lua("silence-for-ever", "every silence gives another lease, also to the dead", "heard",
         "local again = length > most and last < till", "local again = false"),
    _lua("silence-deadlines", "deadlines that passed while Redis was away are judged at once", "heard",
         "return now < till and math.min(now, from - 1) or now", "return now"),
    _lua("adopt-drops", "a worker that reconnects drops what it had not started", "adopt",
         "give_back_fields(old, rest, true, dead and started_by(old, rest), most)"),
    _lua("adopt-keeps-old", "the old name of a worker that reconnects may still take", "adopt",
         "  redis.call('ZREM', beats, old)\n"),
    _lua("timer-twice", "a timer that fired stays in the list and open", "fire_timers",
         "    redis.call('ZREM', timers, member)\n    redis.call('HDEL', open .. execution, seq)\n    make_ready",
         "    make_ready"),
    _lua("timer-of-old-run", "a timer of an earlier run fires", "fire_timers",
         "elseif r[2] == execution and redis.call('HGET', open .. execution, seq) == 't' then", "elseif r[1] then"),
    Mutation("terminate-no-fence", "terminate leaves the claim, and commit does not ask for the length",
             ((f"{LUA}/ends.lua", "'status', 'Terminated', 'stage', '0', 'claim', '',", "'status', 'Terminated', 'stage', '0',"),
              _NO_LENGTH)),
    _lua("end-leaves-open", "the open steps of a run that ended stay", "ends",
         "  close_open(id, execution, reason)\n  redis.call('PUBLISH'", "  redis.call('PUBLISH'"),
    _lua("next-run-drops", "continue-as-new drops the events that wait", "commit_steps",
         "      redis.call('RPUSH', inbox .. id, item)\n"),
    _lua("next-run-keeps-all", "continue-as-new keeps the outcomes of the old run", "commit_steps",
         "if string.find(item, '^{\"k\":10[,}]') then", "if string.sub(item, 1, 1) == '{' then"),
    _lua("event-twice", "an event that is sent again counts again", "raising",
         "  if dedup_key ~= '' and redis.call('SISMEMBER', dedup .. instance, dedup_key) == 1 then return 0 end\n"),
    _lua("start-twice", "a start that is sent again starts again", "start", "  if known then", "  if false then"),
    _lua("parent-not-told", "a child that ends does not tell its parent", "ends",
         "  redis.call('RPUSH', inbox .. parent, text)\n"),
    _lua("suspended-runs", "what is suspended goes on", "claim", "    if not r[5] then\n", "    if true then\n"),
    _lua("resume-sleeps", "resume does not make ready", "controlling",
         "  if has_work(id, false) then make_ready_now(id, r[1], r[4]) end\n"),
    Mutation("cache-after-fence", "an orchestrator keeps what it computed in vain",
             (("celery_app/orchestrator/worker.py",
               "self._turner.let_go(answer)\n            else:", "self._committed(answer, CommitReply(False, [], False)) if isinstance(answer, Done) else None\n            else:"),),
             NAMED_BY_COMMIT),
    Mutation("ack-first", "a worker that reconnects forgets that it still runs something",
             (("celery_app/transport/inflight.py",
               "if held.incarnation == old}\n", "if held.incarnation == old and not held.ours}\n"),)),
    Mutation("abandon-keeps", "a fenced worker still starts what it had taken",
             (("celery_app/transport/inflight.py",
               "deque(held for held in self.buffer if held.incarnation != name)", "deque(self.buffer)"),)),
    _lua("stage-no-claim", "stage does not ask whose claim it is", "stage", "if r[3] ~= claim then", "if false then"),
    _lua("suspect-in-company", "a suspect is claimed together with others", "claim",
         "elseif suspect and (held > 0 or #taken > 0) then", "elseif false then"),
    _lua("accuse-nobody", "a run whose code misbehaved unclaimed is not made a suspect", "accuse",
         "redis.call('HSET', inst .. instance, 'suspect', '1')\n"),
    _lua("rouse-nobody", "a process that joins wakes nothing that waits", "rouse", "for _, id in ipairs(ids) do make_ready_now(id, '1', false) end\n"),
    _lua("hand-back-all", "hand_back takes the turns along that are being computed", "hand_back", "if not keep[id] then", "if true then"),
    _lua("deadline-once", "a passed deadline is handed out once, whoever dies with it", "sweep",
         "redis.call('ZADD', deadlines, string.format('%.0f', now + lease), member)", "redis.call('ZREM', deadlines, member)"),
    _lua("arm-revives", "a sign of life arms a deadline that a give-back took away", "arm", "'XX', "),
    _lua("slot-lost", "a part that is tried again takes no slot of its window", "promote",
         "redis.call('HINCRBY', open .. execution, group .. 'i', 1)", "redis.call('HINCRBY', open .. execution, group .. 'i', 0)"),
    _lua("never-judged", "a step is run again however many processes die under it", "back",
         "if instance and lost >= most then", "if false then"),
    _lua("give-back-closed", "a message whose step is closed goes back to its queue", "back",
         "if execution and not is_current(state, attempt) then return 0 end"),
    _lua("begin-any", "on kombu's transport a second copy of a running step begins", "begin",
         "if holder and holder ~= mine and not again then return 0 end\n"),
    _lua("resend-blind", "resend does not ask whether the step is as the audit saw it", "resend",
         "if redis.call('HGET', key, seq) ~= state then return 'GONE' end\n"),
    _lua("audit-floods", "the audit takes every queued step for lost", "audit_steps",
         "queue.gone >= tonumber(ordinal)", "true"),
    _lua("audit-blind", "the audit does not see that a queued message has left", "audit_steps",
         "if queue.length == 0 or queue.gone >= tonumber(ordinal) then", "if false then"),
    _lua("retime-any", "retime does not ask whether the timer is open", "retime",
         "if redis.call('HGET', open .. execution, seq) ~= 't' then return 'GONE' end\n"),
    _lua("restart-twice", "a restart that is sent again restarts again", "restart",
         "if r[2] == execution then return {instance, r[2], 1} end\n"),
    Mutation("purge-alone", "a purge leaves the children",
             (("celery_app/client/purging.py", "removed = yield from self._below(instance_id, above | {instance_id})", "removed = 0"),)),
    _lua("purge-forgets-below", "a purged child stays in the list of its parent", "ends",
         "  if r[5] and r[5] ~= '' then redis.call('SREM', below .. r[5], id) end\n"),
    Mutation("handed-again", "what a pool's child has got goes back, too, when the connection breaks",
             (("celery_app/transport/handed.py", "        job._accepted, job._worker_pid = True, child.pid\n        state.active_requests.add(request)\n", ""),)),
    Mutation("copies-stay", "a pool's child keeps its copies of the worker's sockets",
             (("celery_app/transport/watched.py", "            sock.close()", "            sock.fileno()"),)),
    Mutation("server-unwatched", "a worker does not notice that another Redis answers",
             (("celery_app/transport/watched.py", "return before != self._changes", "return False"),)),
    Mutation("forks-at-any-time", "a worker forks a child while another of its threads is at work",
             (("celery_app/forking.py", "lambda: self._busy <= me", "lambda: True"),)),
)  # fmt: skip

# The test that notices a change by itself, whatever the simulation says.
NAMED = {
    "commit-no-claim": "tests/store/test_turns.py::test_a_commit_is_fenced_by_claim_execution_and_history_length",
    "commit-no-length": "tests/store/test_turns.py::test_a_commit_is_fenced_by_claim_execution_and_history_length",
    "claim-lapsed": "tests/store/test_turns.py::test_an_incarnation_that_does_not_beat_gets_nothing",
    "take-any-attempt": "tests/celery/test_flights.py::test_take_marks_and_refuses_steps",
    "take-condemned": "tests/celery/test_flights.py::test_only_the_living_take",
    "complete-stale": "tests/store/test_sweep.py::test_a_retry_keeps_the_last_ten_attempts_and_wakes_nobody",
    "silence-condemns": "tests/store/test_silence.py::test_after_a_silence_nobody_is_given_up_for_a_lease",
    "silence-for-ever": "tests/store/test_silence.py::test_silences_in_a_row_keep_nothing_dead_for_ever",
    "silence-deadlines": "tests/store/test_silence.py"
    "::test_deadlines_that_passed_in_a_silence_wait_for_a_lease",
    "retry-stale": "tests/store/test_late_words.py::test_a_late_failure_of_an_older_attempt_parks_nothing",
    "promote-any": "tests/celery/test_flights.py::test_park_and_promote",
    "sweep-closing": "tests/store/test_races.py::test_a_child_that_continues_as_new_ends_with_its_parent",
    "flights-kept": "tests/celery/test_flights.py::test_sweep",
    "adopt-drops": "tests/celery/test_flights.py::test_adopt",
    "adopt-keeps-old": "tests/celery/test_flights.py::test_adopt",
    "timer-twice": "tests/store/test_turns.py::test_timers_fire_once_when_due",
    "timer-of-old-run": "tests/store/test_late_words.py"
    "::test_a_timer_of_an_earlier_run_that_is_still_being_cleaned_up_fires_for_nobody",
    "terminate-no-fence": "tests/store/test_life.py"
    "::test_terminate_fences_the_running_turn_and_removes_what_is_open",
    "next-run-drops": "tests/store/test_life.py::test_continue_as_new_starts_afresh_and_keeps_what_was_not_taken",
    "next-run-keeps-all": "tests/store/test_life.py::test_a_completion_of_the_old_run_closes_nothing_in_the_next",
    "event-twice": "tests/store/test_life.py::test_an_event_is_delivered_once_per_dedup_key",
    "start-twice": "tests/store/test_life.py::test_an_idempotency_key_starts_once_whatever_the_id",
    "parent-not-told": "tests/store/test_children.py::test_a_child_tells_its_parent_and_brings_its_large_output",
    "suspended-runs": "tests/store/test_life.py::test_while_suspended_events_stay_and_controls_are_delivered",
    "resume-sleeps": "tests/store/test_life.py::test_suspended_before_it_began_it_begins_when_resumed",
    "ack-first": "tests/celery/test_inflight.py::test_what_runs_stays_with_its_worker_over_a_lost_connection",
    "abandon-keeps": "tests/celery/test_inflight.py::test_a_fenced_worker_starts_nothing_of_what_it_had_taken",
    "stage-no-claim": "tests/store/test_races_fences.py"
    "::test_who_lost_its_claim_writes_over_no_payload_of_the_next_claimant",
    "suspect-in-company": "tests/store/test_sweep.py"
    "::test_a_suspect_is_not_claimed_beside_others_but_makes_room_for_itself",
    "accuse-nobody": "tests/store/test_charges.py::test_the_accused_is_claimed_alone_in_its_run_only",
    "rouse-nobody": "tests/store/test_charges.py::test_what_waits_is_tried_at_once_when_somebody_asks",
    "hand-back-all": "tests/store/test_sweep.py::test_a_graceful_stop_hands_back_without_a_strike",
    "deadline-once": "tests/store/test_sweep.py"
    "::test_a_passed_deadline_goes_to_one_caller_until_its_attempt_is_settled",
    "arm-revives": "tests/store/test_races.py::test_a_sign_of_life_after_the_give_back_arms_nothing",
    "slot-lost": "tests/celery/test_flights_of_the_dead.py"
    "::test_a_step_is_queued_once_then_waits_then_is_judged",
    "begin-any": "tests/store/test_audit.py::test_on_kombu_s_own_transport",
    "resend-blind": "tests/store/test_audit.py::test_a_lost_message_is_found_and_sent_again",
    "audit-floods": "tests/store/test_audit.py::test_a_deep_queue_with_a_slow_worker_is_left_alone",
    "audit-blind": "tests/store/test_audit.py::test_only_what_left_a_queue_is_lost",
    "retime-any": "tests/store/test_late_words.py"
    "::test_a_timer_that_was_cancelled_after_the_audit_saw_it_is_not_listed_again",
    "restart-twice": "tests/store/test_late_words.py::test_a_restart_whose_reply_was_lost_restarts_once",
    "purge-alone": "tests/store/test_children_purged.py",
    "purge-forgets-below": "tests/store/test_children.py"
    "::test_a_child_that_was_replaced_is_not_closed_for_its_predecessor",
    "never-judged": "tests/celery/test_flights_of_the_dead.py"
    "::test_a_step_is_queued_once_then_waits_then_is_judged",
    "give-back-closed": "tests/celery/test_flights.py::test_what_was_closed_meanwhile_does_not_return",
    "handed-again": "tests/celery/test_handed.py::test_what_a_child_has_runs_once_after_a_cut",
    "copies-stay": "tests/celery/test_watched.py"
    "::test_a_forked_child_closes_its_copies_and_leaves_the_connection_to_its_parent",
    "server-unwatched": "tests/celery/test_watched.py::test_another_server_is_noticed_once",
    "forks-at-any-time": "tests/celery/test_forking.py"
    "::test_a_fork_waits_for_a_thread_at_work_but_not_for_one_that_waits",
}
