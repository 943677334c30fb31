/** Accounts, API keys and invites: who may call. */
import type { CallOptions, Core, ListOptions } from "../core.js";
import type * as plain from "../gen/types.js";
import {
  AccessService,
  AccountSchema,
  ApiKeySchema,
  InviteSchema,
  PrincipalSchema,
} from "../gen/mi/v1/access_service_pb.js";
import { QuotaSchema } from "../gen/mi/v1/quota_pb.js";
import { expect, toPlain } from "../plain.js";

const api = AccessService.method;

/** `client.access` */
export class Access {
  /** @internal */
  constructor(private readonly core: Core) {}

  /** Returns who you are, and how much your account has and may have. */
  async whoAmI(options?: CallOptions): Promise<{ principal: plain.Principal; quotas: plain.Quota[] }> {
    const answer = await this.core.call(api.whoAmI, {}, options);
    const quotas = answer.quotas.map((quota) => toPlain(QuotaSchema, quota));
    return { principal: expect(PrincipalSchema, answer.principal), quotas };
  }

  /** Creates an account with its first API key, which is shown this once; the administrator does. */
  async createAccount(name: string, options?: CallOptions): Promise<{ account: plain.Account; secret: string }> {
    const { account, secret } = await this.core.call(api.createAccount, { name }, options);
    return { account: expect(AccountSchema, account), secret };
  }

  /** Lists all accounts, oldest first; the administrator does. */
  async listAccounts(options?: ListOptions): Promise<plain.Account[]> {
    const accounts = this.core.pages(api.listAccounts, {}, (answer) => answer.accounts, options);
    return (await accounts).map((account) => toPlain(AccountSchema, account));
  }

  /** Creates an API key in your account, or, for the administrator, in any. The secret is shown this once. */
  async createApiKey(
    name: string,
    { accountId, ...options }: CallOptions & { accountId?: string } = {},
  ): Promise<{ apiKey: plain.ApiKey; secret: string }> {
    const { apiKey, secret } = await this.core.call(api.createApiKey, { name, accountId }, options);
    return { apiKey: expect(ApiKeySchema, apiKey), secret };
  }

  /** Lists the API keys of your account, or, for the administrator, of any. */
  async listApiKeys({ accountId, ...options }: ListOptions & { accountId?: string } = {}): Promise<plain.ApiKey[]> {
    const keys = this.core.pages(api.listApiKeys, { accountId }, (answer) => answer.apiKeys, options);
    return (await keys).map((key) => toPlain(ApiKeySchema, key));
  }

  /** Revokes an API key; within a second no call with it succeeds. */
  async revokeApiKey(apiKeyId: string, options?: CallOptions): Promise<plain.ApiKey> {
    return expect(ApiKeySchema, (await this.core.call(api.revokeApiKey, { apiKeyId }, options)).apiKey);
  }

  /** Makes an invite, with whose code one agent that runs elsewhere joins the office. */
  async createInvite(officeId: string, options?: CallOptions): Promise<plain.Invite> {
    return expect(InviteSchema, (await this.core.call(api.createInvite, { officeId }, options)).invite);
  }
}
