// What this run was asked to do, and why it takes place.

import { parse } from './contract.js';
import { platform } from './platform.js';

/** Every getter asks the platform, and what is not asked for costs nothing. */
export class Request {
  #context;

  get id() {
    return platform('request').id();
  }

  get attempt() {
    return platform('request').attempt();
  }

  get prompt() {
    return platform('request').prompt();
  }

  /** The same in every run of the request, whatever woke it. */
  get context() {
    if (this.#context === undefined) {
      const delivered = this.rawContext;
      const { type } = this.trigger;
      const own = type === 'initial' || (type === 'cron' && !isWakeUp(delivered));
      this.#context = own ? delivered : delivered.parent_context;
    }
    return this.#context;
  }

  /** As the platform delivers it: in a wake-up an object that says what happened. */
  get rawContext() {
    return parse(platform('request').context());
  }

  get repoUrl() {
    return platform('request').repoUrl();
  }

  get branch() {
    return platform('request').branch();
  }

  get config() {
    return parse(platform('request').config());
  }

  get metadata() {
    return parse(platform('request').metadata());
  }

  get trigger() {
    return trigger(platform('request').trigger());
  }

  get additionalTriggers() {
    return platform('request').additionalTriggers().map(trigger);
  }

  get triggers() {
    return [this.trigger, ...this.additionalTriggers];
  }

  get parentId() {
    return platform('request').parentId();
  }

  get workerType() {
    return platform('request').workerType();
  }

  get orgSlug() {
    return platform('request').orgSlug();
  }

  get userId() {
    return platform('request').userId();
  }

  get deadline() {
    return new Date(Number(platform('request').deadline()));
  }
}

// A schedule creates a request, or wakes one that waits.
function isWakeUp(context) {
  return ['trigger', 'parent_request_id', 'parent_context', 'additional_completions'].every((name) =>
    Object.hasOwn(context, name),
  );
}

function trigger({ tag, val }) {
  switch (tag) {
    case 'initial':
      return { type: 'initial' };
    case 'child-complete':
      return { type: 'child_complete', requestId: val.requestId, status: val.status };
    case 'hitl-response':
      return {
        type: 'hitl_response',
        questionId: val.questionId,
        expired: val.response === undefined,
        response: parse(val.response),
        answeredBy: val.answeredBy,
      };
    case 'deployment-settled':
      return {
        type: 'deployment_settled',
        deploymentId: val.deploymentId,
        status: val.status,
        reason: val.reason,
      };
    case 'timer':
    case 'cron':
      return { type: tag, name: val };
    default:
      return { type: 'other', name: val };
  }
}
