/** Integrations: what an office's agents can reach outside the platform, and the secrets it takes. */
import type { CallOptions, Core } from "../core.js";
import type * as plain from "../gen/types.js";
import { AgentIntegrationSchema, IntegrationSchema, IntegrationService } from "../gen/mi/v1/integration_service_pb.js";
import { expect, toPlain } from "../plain.js";

const api = IntegrationService.method;

/** `client.integrations` */
export class Integrations {
  /** @internal */
  constructor(private readonly core: Core) {}

  /** Lists the integrations of the catalogue, and which of their secrets the office has. */
  async list(officeId: string, options?: CallOptions): Promise<plain.Integration[]> {
    const answer = await this.core.call(api.listIntegrations, { officeId }, options);
    return answer.integrations.map((integration) => toPlain(IntegrationSchema, integration));
  }

  /** Sets a secret, e.g. `setSecret(officeId, "anthropic", "api_key", "sk-...")`. No call answers one. */
  async setSecret(
    officeId: string,
    integration: string,
    name: string,
    value: string,
    options?: CallOptions,
  ): Promise<plain.Integration> {
    const input = { officeId, integration, name, value };
    return expect(IntegrationSchema, (await this.core.call(api.setIntegrationSecret, input, options)).integration);
  }

  /** Deletes a secret. */
  async deleteSecret(
    officeId: string,
    integration: string,
    name: string,
    options?: CallOptions,
  ): Promise<plain.Integration> {
    const input = { officeId, integration, name };
    return expect(IntegrationSchema, (await this.core.call(api.deleteIntegrationSecret, input, options)).integration);
  }

  /** Lists the integrations of the catalogue, and which of them are enabled for an agent. */
  async listForAgent(officeId: string, agent: string, options?: CallOptions): Promise<plain.AgentIntegration[]> {
    const answer = await this.core.call(api.listAgentIntegrations, { officeId, agent }, options);
    return answer.integrations.map((integration) => toPlain(AgentIntegrationSchema, integration));
  }

  /** Enables an integration for an agent; an agent whose environment changes by it restarts. */
  async enable(
    officeId: string,
    agent: string,
    integration: string,
    options?: CallOptions,
  ): Promise<plain.AgentIntegration> {
    return this.set({ officeId, agent, integration, enabled: true }, options);
  }

  /** Disables an integration for an agent. */
  async disable(
    officeId: string,
    agent: string,
    integration: string,
    options?: CallOptions,
  ): Promise<plain.AgentIntegration> {
    return this.set({ officeId, agent, integration, enabled: false }, options);
  }

  private async set(input: plain.SetAgentIntegrationRequest, options?: CallOptions): Promise<plain.AgentIntegration> {
    const answer = await this.core.call(api.setAgentIntegration, input, options);
    return expect(AgentIntegrationSchema, answer.integration);
  }
}
